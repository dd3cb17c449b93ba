"""Which candidates pass, and which one is served."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.optimization.report import Candidate, Gates, Latency
from headrace.program import Goal
from headrace_optimization.core.choice import EQUALLY_FAST, choose
from headrace_optimization.core.gates import judge

ACCURACY, LOSS = Goal("quality", "max"), Goal("quality", "min")
OPEN = Gates(max_metric_drop=0.01, min_speedup=None, max_bytes=None)


def candidate(name: str, *, quality: float = 0.9, p50_ms: float = 1.0, size_bytes: int = 1000) -> Candidate:
    latency = Latency(batch_size=1, p50_ms=p50_ms, p99_ms=2 * p50_ms, rounds=30)
    return Candidate(
        name=name,
        file=f"{name}.onnx",
        size_bytes=size_bytes,
        metrics={"quality": quality},
        latency=(latency,),
    )


def gates_passed(gates: Gates, goal: Goal = ACCURACY, **values: float) -> dict[str, bool]:
    judged = judge([candidate("fp32"), candidate("int8", **values)], gates, goal)[1]  # type: ignore[arg-type]  # sizes are ints
    return {verdict.gate: verdict.passed for verdict in judged.gates}


@pytest.mark.parametrize(
    ("goal", "quality", "passes"),
    [(ACCURACY, 0.891, True), (ACCURACY, 0.889, False), (LOSS, 0.909, True), (LOSS, 0.911, False)],
)
def test_a_candidate_may_be_worse_by_the_allowed_drop_and_no_more(
    goal: Goal, quality: float, passes: bool
) -> None:
    assert gates_passed(OPEN, goal, quality=quality) == {"max_metric_drop": passes}


@pytest.mark.parametrize("quality", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal", [ACCURACY, LOSS])
def test_a_metric_that_is_no_number_never_passes(goal: Goal, quality: float) -> None:
    assert gates_passed(OPEN, goal, quality=quality) == {"max_metric_drop": False}


def test_gates_of_speed_and_size_hold_when_they_are_set() -> None:
    gates = Gates(max_metric_drop=0.01, min_speedup=2.0, max_bytes=500)
    assert all(gates_passed(gates, p50_ms=0.5, size_bytes=500).values())
    assert gates_passed(gates, p50_ms=0.6, size_bytes=501) == {
        "max_metric_drop": True,
        "min_speedup": False,
        "max_bytes": False,
    }


def test_every_verdict_says_why() -> None:
    judged = judge([candidate("fp32"), candidate("int8", quality=0.5)], OPEN, ACCURACY)
    assert judged[1].gates[0].reason == "quality 0.5 is more than 0.01 worse than fp32's 0.9"
    assert all(verdict.reason for one in judged for verdict in one.gates)


def test_fp32_passes_even_gates_it_does_not_satisfy() -> None:
    (judged,) = judge([candidate("fp32")], Gates(max_metric_drop=0, min_speedup=9, max_bytes=1), ACCURACY)
    assert judged.passed


def test_a_candidate_that_was_not_judged_has_not_passed() -> None:
    assert not candidate("int8").passed


@pytest.mark.parametrize(
    ("p50_ms", "size_bytes", "picked"),
    [
        (0.5, 2000, "int8"),  # twice as fast: the larger file does not matter
        (0.97, 900, "int8"),  # as good as equally fast: smaller
        (0.97, 1100, "fp32"),  # as good as equally fast: larger
        (1.01, 10, "fp32"),  # slower, by however little
    ],
)
def test_latency_decides_unless_files_are_about_equally_fast(
    p50_ms: float, size_bytes: int, picked: str
) -> None:
    judged = judge(
        [candidate("fp32"), candidate("int8", p50_ms=p50_ms, size_bytes=size_bytes)], OPEN, ACCURACY
    )
    assert choose(judged, "latency").candidate == picked


def test_size_decides_when_it_is_the_objective() -> None:
    judged = judge([candidate("fp32"), candidate("int8", p50_ms=3, size_bytes=999)], OPEN, ACCURACY)
    pick = choose(judged, "size")
    assert pick.candidate == "int8"
    assert pick.why == "0.33 times as fast as fp32 at batch 1, with 100% of its bytes"


positive = st.floats(1e-3, 1e3)
measured = st.builds(
    lambda name, quality, p50_ms, size: candidate(name, quality=quality, p50_ms=p50_ms, size_bytes=size),
    st.sampled_from(["int8", "int4", "fp16"]),
    st.floats(allow_nan=True, allow_infinity=True),
    positive,
    st.integers(1, 10**9),
)
gates = st.builds(
    Gates,
    max_metric_drop=st.floats(0, 1),
    min_speedup=st.none() | positive,
    max_bytes=st.none() | st.integers(1, 10**9),
)
others = st.lists(measured, max_size=3, unique_by=lambda one: one.name)


@given(reference=positive, others=others, gates=gates, goal=st.sampled_from([ACCURACY, LOSS]))
def test_what_is_picked_passed_every_gate_and_is_never_slower_than_fp32(
    reference: float, others: list[Candidate], gates: Gates, goal: Goal
) -> None:
    judged = judge([candidate("fp32", p50_ms=reference), *others], gates, goal)
    by_name = {one.name: one for one in judged}

    pick = by_name[choose(judged, "latency").candidate]

    eligible = [one for one in judged if one.passed and one.decisive_p50_ms <= reference]
    fastest = min(one.decisive_p50_ms for one in eligible)
    assert pick.passed
    assert pick.decisive_p50_ms <= min(reference, fastest * EQUALLY_FAST)
    assert all(pick.size_bytes <= one.size_bytes for one in eligible if one.decisive_p50_ms == fastest)


@given(others=others, gates=gates)
def test_no_candidate_that_passed_is_smaller_than_what_the_size_objective_picks(
    others: list[Candidate], gates: Gates
) -> None:
    judged = judge([candidate("fp32"), *others], gates, ACCURACY)
    pick = {one.name: one for one in judged}[choose(judged, "size").candidate]
    assert pick.passed
    assert pick.size_bytes == min(one.size_bytes for one in judged if one.passed)
