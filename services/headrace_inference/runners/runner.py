"""The seam between a model's queue and what computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_inference.core.batching import Arrays
from headrace_inference.core.catalog import Format
from headrace_inference.core.signature import Signature


@dataclass(frozen=True)
class ModelFile:
    """A file that can be made to run.

    Args:
        digest: sha256 of its bytes, in hex.
        read: Fetches the bytes, checked against the digest; raises what `Registry.download_bytes` raises.
    """

    format: Format
    digest: str
    read: Callable[[], bytes]


class Runner(Protocol):
    """A model that runs; thread-safe."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs, in arrays of their own that no later run touches.

        Args:
            inputs: Checked against the signature; read, never written.
        Raises:
            InvalidArgument: The model cannot run these values.
            ResourceExhausted: There is not enough memory.
            FailedPrecondition: It is closed, or what it gives is not what its signature says.
        """

    def close(self) -> None:
        """Give back what it holds; runs that are under way still end. Closing twice is harmless."""
