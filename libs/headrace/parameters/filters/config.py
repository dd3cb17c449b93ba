"""How the values of a store travel by streams."""

import math
from dataclasses import dataclass

from headrace.errors import InvalidArgument
from headrace.parameters.filters.encodings import Encoding
from headrace.parameters.filters.selection import Select, largest, significant

DENSITY = 0.01
THRESHOLD = 2.0


@dataclass(frozen=True)
class TopK:
    """Send the largest values of a gradient, `density` of all, and keep the others for later steps."""

    density: float = DENSITY

    def __post_init__(self) -> None:
        _check("compression.top_k.density", self.density, "above 0 and at most 1", 0 < self.density <= 1)

    @property
    def select(self) -> Select:
        """Which values are sent."""
        return largest(self.density)


@dataclass(frozen=True)
class Significance:
    """Send what is at least `threshold` times the root mean square of the gradient, and keep the rest for later steps."""

    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        _check("compression.significance.threshold", self.threshold, "above 0", self.threshold > 0)

    @property
    def select(self) -> Select:
        """Which values are sent."""
        return significant(self.threshold)


@dataclass(frozen=True)
class Compression:
    """What is done to gradients on their way up and to values on their way down; FLOAT32: nothing."""

    gradients: Encoding | TopK | Significance = Encoding.FLOAT32
    values: Encoding = Encoding.FLOAT32

    def __post_init__(self) -> None:
        for name, encoding in (("gradients", self.gradients), ("values", self.values)):
            if encoding is Encoding.SPARSE:
                raise InvalidArgument(
                    f"compression.{name} is SPARSE, which says not what to leave out; use top_k or significance for gradients",
                    field=f"compression.{name}",
                )


NONE = Compression()


def _check(field: str, value: float, bounds: str, holds: bool) -> None:
    if not holds or not math.isfinite(value):
        raise InvalidArgument(f"{field} is {value}; it must be {bounds}", field=field)
