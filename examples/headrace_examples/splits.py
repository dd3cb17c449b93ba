"""The same three splits every time, each with every class in its right share."""

import numpy as np
import numpy.typing as npt

from headrace.program import Split

_SEED = 0
# Where each split lies, in hundredths of a class's examples.
_BOUNDS: dict[Split, tuple[int, int]] = {"train": (0, 70), "validation": (70, 85), "test": (85, 100)}


def stratified(classes: npt.NDArray[np.integer], split: Split) -> npt.NDArray[np.intp]:
    """Return the indices of `split`, in ascending order: 70 % train, 15 % validation, 15 % test of every class.

    Args:
        classes: Shape (N,): the class of each example.
    """
    generator = np.random.default_rng(_SEED)
    begin, end = _BOUNDS[split]
    chosen = []
    for value in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == value))
        chosen.append(members[len(members) * begin // 100 : len(members) * end // 100])
    return np.sort(np.concatenate(chosen))
