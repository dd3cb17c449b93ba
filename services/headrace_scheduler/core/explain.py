"""Why a job waits: the conditions of its placement, each with what fails it."""

from collections import Counter
from dataclasses import dataclass

from headrace_scheduler.core.jobs import Job, JobState
from headrace_scheduler.core.nodes import NodeKind
from headrace_scheduler.core.placement import Demand, Usage, could_ever_fit, demands, in_pool, queue
from headrace_scheduler.core.tables import Tables


@dataclass(frozen=True)
class Condition:
    """One condition of a placement; `needed` and `available` count free slots, on different nodes where that matters."""

    id: str
    satisfied: bool
    needed: int
    available: int
    reasons: tuple[str, ...] = ()


def conditions(tables: Tables, job: Job, now: float, lease_s: float) -> list[Condition]:
    """List the conditions of a queued job's placement, in the order they are checked."""
    usage = Usage.of(tables)
    return [
        _pause(job, now),
        _turn(tables, job, now, lease_s),
        *(_nodes(tables, job, demand, usage, now, lease_s) for demand in demands(job)),
    ]


def _pause(job: Job, now: float) -> Condition:
    left_s = job.not_before - now
    reasons = (f"the next attempt begins in {left_s:.1f} s",) if left_s > 0 else ()
    return Condition("pause after a failed attempt", left_s <= 0, 0, 0, reasons)


def _turn(tables: Tables, job: Job, now: float, lease_s: float) -> Condition:
    ahead = [
        other.name
        for other in queue(tables, job.pool, job.kind)
        if other.sequence < job.sequence
        and now >= other.not_before
        and could_ever_fit(tables, other, now, lease_s)
    ]
    if not could_ever_fit(tables, job, now, lease_s):
        ahead = []  # its turn does not matter: the conditions after this one say what is missing
    return Condition("turn", not ahead, 0, 0, _behind(ahead))


def _behind(ahead: list[str]) -> tuple[str, ...]:
    if len(ahead) > 1:
        return (f"behind {len(ahead)} jobs, {ahead[0]} first",)
    return tuple(f"behind {name}" for name in ahead)


def _nodes(tables: Tables, job: Job, demand: Demand, usage: Usage, now: float, lease_s: float) -> Condition:
    available = 0
    reasons: Counter[str] = Counter()
    for node in tables.nodes.values():
        if node.kind is not demand.kind:
            continue
        why = f"in {node.pool}" if node.pool != job.pool else node.refusal(now, lease_s)
        free = 0 if why else demand.capacity(usage.free(node))
        available += free
        if not free:
            reasons[why or usage.busy_with(node)] += 1
    lines = tuple(f"{count} {why}" for why, count in sorted(reasons.items()))
    return Condition(_id(demand), available >= demand.count, demand.count, available, lines)


# What the kinds of nodes are called, and the option of `headrace up` that says how many there are.
_NAMES = {
    NodeKind.PARAMETERS: ("parameter nodes", "shards"),
    NodeKind.TRAINING: ("training nodes", "workers"),
    NodeKind.OPTIMIZATION: ("optimization nodes", "optimizers"),
}


def _id(demand: Demand) -> str:
    return _NAMES[demand.kind][0]


def summary(tables: Tables, job: Job, now: float, lease_s: float) -> str:
    """Say in one line why a job waits, or that it does not."""
    if job.state.final:
        return f"does not wait: it ended {job.state}"
    if job.state is not JobState.QUEUED:
        return f"does not wait: it is {job.state}, attempt {job.attempt}"
    found = conditions(tables, job, now, lease_s)
    failing = next((condition for condition in found if not condition.satisfied), None)
    if failing is None:
        return "does not wait any more: it is placed next"
    if not failing.needed:
        return f"waits: {'; '.join(failing.reasons)}"
    return _missing(tables, job, failing)


def _missing(tables: Tables, job: Job, failing: Condition) -> str:
    demand = next(demand for demand in demands(job) if _id(demand) == failing.id)
    missing = failing.needed - failing.available
    kind = failing.id if failing.needed > 1 else failing.id.removesuffix("s")
    verb = "is" if failing.available == 1 else "are"
    total = len(in_pool(tables, job, demand)) + missing
    reasons = f" ({', '.join(failing.reasons)})" if failing.reasons else ""
    remedy = f"start {'one' if missing == 1 else missing} more with `headrace up --{_NAMES[demand.kind][1]} {total}`"
    if any(reason.endswith(" draining") for reason in failing.reasons):
        remedy = f"resume what is draining with `headrace node resume`, or {remedy}"
    return f"waits: needs {failing.needed} free {kind}, {failing.available} {verb} free{reasons}; {remedy}"
