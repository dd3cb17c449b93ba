"""Which values of a gradient are sent now."""

import math
from collections.abc import Callable

import numpy as np

from headrace.parameters.filters.sparse import Places
from headrace.parameters.layout import Floats

Select = Callable[[Floats], Places]

_SAMPLES = 1 << 14  # a threshold from so many is within a few percent of the right one
_MARGIN = 1.25  # more candidates than are wanted, so that the wanted ones are nearly always among them


def largest(density: float) -> Select:
    """Select the `density` of all values, rounded up, that are largest in size: exactly so many, of equal ones any."""

    def select(values: Floats) -> Places:
        wanted = math.ceil(density * values.size)
        sizes = np.abs(values)
        candidates = _candidates(sizes, wanted)
        if candidates.size < wanted:
            candidates = np.arange(values.size)
        chosen = np.argpartition(sizes[candidates], candidates.size - wanted)[candidates.size - wanted :]
        return np.sort(candidates[chosen])

    return select


def _candidates(sizes: Floats, wanted: int) -> Places:
    """Find about `_MARGIN` times as many values as are wanted, by a threshold that a sample gives: one pass instead of a sort."""
    sample = sizes[:: max(1, sizes.size // _SAMPLES)]
    rank = sample.size - 1 - math.ceil(_MARGIN * wanted / max(1, sizes.size) * sample.size)
    if rank < 0:
        return np.arange(sizes.size)
    return np.flatnonzero(sizes >= np.partition(sample, rank)[rank])


def significant(threshold: float) -> Select:
    """Select the values that are at least `threshold` times as large as the root of their mean square.

    A bound that grows and shrinks with the gradient needs no choice for each model and phase of a training. Li et al. 2014 (OSDI,
    section 3.6) send what has changed by more than a threshold since it was last sent: with what was held back added, that is it.
    """

    def select(values: Floats) -> Places:
        with np.errstate(over="ignore"):
            mean_square = float(np.dot(values, values)) / max(1, values.size)
        if not math.isfinite(mean_square):  # the squares overflow
            mean_square = float(np.square(values, dtype=np.float64).mean())
        bound = threshold * math.sqrt(mean_square)
        return np.flatnonzero(np.abs(values) >= bound) if bound else np.flatnonzero(values)

    return select
