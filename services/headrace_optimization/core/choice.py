"""Choose the candidate to serve."""

from collections.abc import Sequence
from typing import Literal

from headrace.optimization.report import Candidate, Pick

# Medians of repeated measurements on a busy machine differ by a few per cent; a file that is surely smaller outweighs that.
EQUALLY_FAST = 1.05


def choose(candidates: Sequence[Candidate], objective: Literal["latency", "size"]) -> Pick:
    """Pick among the candidates that passed all their gates.

    Args:
        candidates: Judged, the fp32 reference first; it passed by definition.
        objective: "latency": the lowest median at the first batch size, or the smallest file within 5 % of it, but never
            one slower than fp32. "size": the smallest file; of equal ones the faster.
    """
    passed = [candidate for candidate in candidates if candidate.passed]
    pick = _smallest(passed) if objective == "size" else _fastest(passed, reference=candidates[0])
    return Pick(candidate=pick.name, why=_explain(pick, candidates[0], objective))


def _smallest(passed: Sequence[Candidate]) -> Candidate:
    return min(passed, key=lambda candidate: (candidate.size_bytes, candidate.decisive_p50_ms))


def _fastest(passed: Sequence[Candidate], reference: Candidate) -> Candidate:
    eligible = [candidate for candidate in passed if candidate.decisive_p50_ms <= reference.decisive_p50_ms]
    lowest_ms = min(candidate.decisive_p50_ms for candidate in eligible)
    return _smallest([one for one in eligible if one.decisive_p50_ms <= lowest_ms * EQUALLY_FAST])


def _explain(pick: Candidate, reference: Candidate, objective: str) -> str:
    if pick is reference:
        return f"nothing else that passed its gates is {'smaller' if objective == 'size' else 'at least as fast'}"
    times = reference.decisive_p50_ms / pick.decisive_p50_ms
    share = pick.size_bytes / reference.size_bytes
    return f"{times:.2f} times as fast as fp32 at batch {pick.latency[0].batch_size}, with {share:.0%} of its bytes"
