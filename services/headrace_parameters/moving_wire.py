"""Messages of the Resharding service to the core's terms and back."""

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import resharding_pb2
from headrace.parameters.wire import layout_from_proto, layout_to_proto, map_from_proto, map_to_proto
from headrace_parameters.core.members import Members
from headrace_parameters.core.part import Facts
from headrace_parameters.core.standing import Standing
from headrace_parameters.participant import Plan


def plan_to_proto(plan: Plan) -> resharding_pb2.Hold:
    """Write a plan."""
    return resharding_pb2.Hold(
        now=map_to_proto(plan.now),
        next=map_to_proto(plan.next),
        coordinator=plan.coordinator,
        tensors=layout_to_proto(plan.layout),
    )


def plan_from_proto(hold: resharding_pb2.Hold) -> Plan:
    """Read a plan; InvalidArgument if it is none."""
    plan = Plan(
        now=map_from_proto(hold.now),
        next=map_from_proto(hold.next),
        coordinator=hold.coordinator,
        layout=layout_from_proto(hold.tensors),
    )
    if plan.coordinator not in plan.now.addresses or not set(plan.now.shards) <= set(plan.now.addresses):
        raise InvalidArgument("a resharding needs the addresses of all shards", field="hold.now")
    return plan


def standing_to_proto(standing: Standing) -> resharding_pb2.Standing:
    """Write where a shard is."""
    return resharding_pb2.Standing(next_steps=standing.cut, pending=sorted(standing.pending))


def standing_from_proto(standing: resharding_pb2.Standing) -> Standing:
    """Read where a shard is."""
    return Standing(dict(standing.next_steps), frozenset(standing.pending))


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
