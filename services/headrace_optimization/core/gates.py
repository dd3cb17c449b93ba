"""Judge candidates against their gates."""

import math
from collections.abc import Iterator, Sequence

from headrace.optimization.report import Candidate, Gates, Verdict
from headrace.program import Goal


def judge(candidates: Sequence[Candidate], gates: Gates, goal: Goal) -> tuple[Candidate, ...]:
    """Give every candidate one verdict per gate.

    Args:
        candidates: Measured, the fp32 reference first. It passes by definition: something must be left to serve.
    Returns:
        The same candidates in the same order, with `gates` filled in. A gate that is not set gives no verdict.
    """
    reference, *others = candidates
    by_definition = Verdict(
        gate="reference", passed=True, reason="fp32 is what the others are measured against"
    )
    return (
        reference.model_copy(update={"gates": (by_definition,)}),
        *(
            other.model_copy(update={"gates": tuple(_verdicts(other, reference, gates, goal))})
            for other in others
        ),
    )


def _verdicts(candidate: Candidate, reference: Candidate, gates: Gates, goal: Goal) -> Iterator[Verdict]:
    yield _judge_drop(candidate, reference, gates.max_metric_drop, goal)
    if gates.min_speedup is not None:
        yield _judge_speedup(candidate, reference, gates.min_speedup)
    if gates.max_bytes is not None:
        yield _judge_bytes(candidate, gates.max_bytes)


def _judge_drop(candidate: Candidate, reference: Candidate, max_drop: float, goal: Goal) -> Verdict:
    value, before = candidate.metrics[goal.metric], reference.metrics[goal.metric]
    # A metric that is not a number compares as false with everything, so it can never pass.
    passed = math.isfinite(value) and goal.drop(before, value) <= max_drop
    relation = "within" if passed else "more than"
    reason = f"{goal.metric} {value:.4g} is {relation} {max_drop:g} worse than fp32's {before:.4g}"
    if not math.isfinite(value):
        reason = f"{goal.metric} is {value}"
    return Verdict(gate="max_metric_drop", passed=passed, reason=reason)


def _judge_speedup(candidate: Candidate, reference: Candidate, least: float) -> Verdict:
    speedup = reference.decisive_p50_ms / candidate.decisive_p50_ms
    passed = speedup >= least
    reason = f"{speedup:.2f} times as fast as fp32, {'at' if passed else 'not at'} least {least:g} times"
    return Verdict(gate="min_speedup", passed=passed, reason=reason)


def _judge_bytes(candidate: Candidate, most: int) -> Verdict:
    passed = candidate.size_bytes <= most
    reason = f"{candidate.size_bytes} bytes, {'at' if passed else 'not at'} most {most}"
    return Verdict(gate="max_bytes", passed=passed, reason=reason)
