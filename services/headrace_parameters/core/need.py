"""What a caller may wait for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """What values must hold before a pull may have them.

    Args:
        version: They have at least this version.
        clock: Every worker has contributed to step `clock` - 1 or a later one.
    """

    version: int = 0
    clock: int = 0

    def met_by(self, version: int, slowest: int) -> bool:
        """Tell whether values of this version, whose slowest worker is at this clock, will do."""
        return version >= self.version and slowest >= self.clock
