"""The processes of a store of several shards."""

from collections.abc import Iterator, Sequence
from itertools import cycle

from benchmarks._pairs import Pair
from benchmarks._victims import Victim
from headrace.parameters.v1 import stores_pb2


class Fleet:
    """As `Victim`; each kill hits the next shard.

    Args:
        shards: The processes, or pairs of them, of each shard.
    """

    def __init__(self, shards: list[Victim] | list[Pair]) -> None:
        self._shards: Sequence[Victim | Pair] = shards
        self._next: Iterator[Victim | Pair] = cycle(self._shards)
        self._hit: Victim | Pair = self._shards[0]

    @property
    def addresses(self) -> list[str]:
        """Where the shards are now."""
        return [shard.address for shard in self._shards]

    @property
    def processor_s(self) -> float:
        """Processor time of the process that serves in place of the one that was hit."""
        return self._hit.processor_s

    def begin(self, request: stores_pb2.CreateStoreRequest) -> None:
        """Start all and make each shard's part of the store."""
        for index, shard in enumerate(self._shards):
            part = stores_pb2.CreateStoreRequest(shard_index=index)
            part.MergeFrom(request)
            shard.begin(part)

    def prepare(self) -> None:
        """Wait until any may be killed with nothing lost."""
        for shard in self._shards:
            shard.prepare()

    def kill(self) -> None:
        """End a process of the next shard without a word."""
        self._hit = next(self._next)
        self._hit.kill()

    def start(self) -> None:
        """Let another process take its place."""
        self._hit.start()

    def end(self) -> None:
        """End all for good."""
        for shard in self._shards:
            shard.end()
