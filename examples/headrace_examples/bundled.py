"""Small data sets that come with scikit-learn, read from its files.

scikit-learn itself is not imported: that takes a second of processor time, which every worker would spend before its first step, and
nothing but these files is needed of it.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def breast_cancer() -> tuple[Floats, Ints]:
    """Return measures of cell nuclei, shape (569, 30), float64, and classes, shape (569,), int64: 0 malignant, 1 benign."""
    return _read("breast_cancer.csv", header_lines=1)


def digits() -> tuple[Floats, Ints]:
    """Return images of 8 x 8 pixels, shape (1797, 64), float64 from 0 to 16, and the digits they show, shape (1797,), int64."""
    return _read("digits.csv.gz", header_lines=0)


def _read(name: str, header_lines: int) -> tuple[Floats, Ints]:
    """Return all columns but the last, and the last."""
    package = find_spec("sklearn")
    assert package is not None, "headrace depends on scikit-learn"
    assert package.origin is not None, "scikit-learn is a package of files"
    path = Path(package.origin).parent / "datasets" / "data" / name
    table = np.loadtxt(path, delimiter=",", skiprows=header_lines)
    return table[:, :-1], table[:, -1].astype(np.int64)
