"""A record with its place in the log of a store."""

from dataclasses import dataclass

from headrace_parameters.core.record import Sealed
from headrace_parameters.journal.files import write_all


@dataclass(frozen=True)
class Numbered:
    """A sealed change, its number, and the epoch of its store."""

    sealed: Sealed
    sequence: int
    epoch: int

    @property
    def size_bytes(self) -> int:
        """Of header and payload."""
        return self.sealed.size_bytes

    def write(self, file: int, offset: int) -> bool:
        """Write it; return False, and leave it without a header, if it was not intact until the end.

        The payload is summed up when it has just been read, and nothing is taken for a record that changed meanwhile.
        """
        payload = self.sealed.payload
        write_all(file, [payload], offset + self.size_bytes - payload.nbytes)
        header, _ = self.sealed.encode(self.sequence, self.epoch)
        if not self.sealed.intact:
            return False
        write_all(file, [header], offset)
        return True
