"""Messages of the Resharding service to the core's terms and back."""

from collections.abc import Collection, Iterable, Mapping

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import resharding_pb2
from headrace.parameters.wire import layout_from_proto, layout_to_proto, map_from_proto, map_to_proto
from headrace_parameters.core.members import Members
from headrace_parameters.core.part import Facts
from headrace_parameters.core.standing import Pending, Point, Standing
from headrace_parameters.plan import Plan


def plan_to_proto(plan: Plan) -> resharding_pb2.Hold:
    """Write a plan."""
    return resharding_pb2.Hold(
        now=map_to_proto(plan.now),
        next=map_to_proto(plan.next),
        coordinator=plan.coordinator,
        tensors=layout_to_proto(plan.layout),
        replicas=plan.replicas,
        terms=plan.terms,
    )


def plan_from_proto(hold: resharding_pb2.Hold) -> Plan:
    """Read a plan; InvalidArgument if it is none."""
    plan = Plan(
        now=map_from_proto(hold.now),
        next=map_from_proto(hold.next),
        coordinator=hold.coordinator,
        layout=layout_from_proto(hold.tensors),
        replicas=dict(hold.replicas),
        terms=dict(hold.terms),
    )
    if plan.coordinator not in plan.now.addresses or not set(plan.now.shards) <= set(plan.now.addresses):
        raise InvalidArgument("a resharding needs the addresses of all shards", field="hold.now")
    return plan


def standing_to_proto(standing: Standing) -> resharding_pb2.Standing:
    """Write where a shard is."""
    pending = standing.pending
    rows = rows_to_proto(pending.rows)
    return resharding_pb2.Standing(
        next_steps=standing.cut, pending=sorted(pending.dense), pending_rows=rows, record=standing.record
    )


def standing_from_proto(standing: resharding_pb2.Standing) -> Standing:
    """Read where a shard is."""
    pending = Pending(frozenset(standing.pending), rows_from_proto(standing.pending_rows))
    return Standing(dict(standing.next_steps), pending, standing.record)


def stage_to_proto(point: Point) -> resharding_pb2.Stage:
    """Write at which point values move."""
    kept = point.kept
    return resharding_pb2.Stage(
        workers=sorted(kept.dense), rows=rows_to_proto(kept.rows), records=point.records
    )


def stage_from_proto(stage: resharding_pb2.Stage) -> Point:
    """Read at which point values move."""
    kept = Pending(frozenset(stage.workers), rows_from_proto(stage.rows))
    return Point(kept, dict(stage.records))


def rows_to_proto(rows: Mapping[str, Collection[int]]) -> list[resharding_pb2.TableWorkers]:
    """Write workers by table."""
    return [
        resharding_pb2.TableWorkers(table=table, workers=sorted(workers)) for table, workers in rows.items()
    ]


def rows_from_proto(rows: Iterable[resharding_pb2.TableWorkers]) -> dict[str, frozenset[int]]:
    """Read workers by table."""
    return {each.table: frozenset(each.workers) for each in rows}


def facts_to_proto(facts: Facts) -> resharding_pb2.PartFacts:
    """Write facts."""
    return resharding_pb2.PartFacts(
        version=facts.version,
        last_steps=facts.last_steps,
        vectors=facts.vectors,
        scalars=facts.scalars,
        samples=facts.samples,
        generation=facts.members.generation,
        workers=facts.members.workers,
        since_version=facts.members.since_version,
        since_step=facts.members.since_step,
    )


def facts_from_proto(facts: resharding_pb2.PartFacts) -> Facts:
    """Read facts."""
    return Facts(
        version=facts.version,
        last_steps=dict(facts.last_steps),
        vectors=tuple(facts.vectors),
        scalars=dict(facts.scalars),
        samples=dict(facts.samples),
        members=Members(facts.generation, tuple(facts.workers), facts.since_version, facts.since_step),
    )
