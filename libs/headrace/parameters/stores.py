"""The stores of one parameter process."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import grpc

from headrace.parameters.v1 import (
    members_pb2,
    resharding_pb2,
    resharding_pb2_grpc,
    stores_pb2,
    stores_pb2_grpc,
)
from headrace.rpc.channel import open_channel
from headrace.rpc.pages import pages


class StoresClient:
    """The stores that one parameter process holds: what a scheduler does with them.

    Args:
        address: The process's, or a channel to it, which stays the caller's.
        timeout_s: Bound of every call.
    """

    def __init__(self, address: str | grpc.Channel, *, timeout_s: float = 30.0) -> None:
        channel = open_channel(address) if isinstance(address, str) else address
        self._own_channel = channel if isinstance(address, str) else None
        self._stub = stores_pb2_grpc.StoresStub(channel)
        self._resharding = resharding_pb2_grpc.ReshardingStub(channel)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the connection."""
        if self._own_channel:
            self._own_channel.close()

    def create(self, request: stores_pb2.CreateStoreRequest) -> stores_pb2.Store:
        """Make the process hold a shard; the same request again returns it as it is."""
        return self._stub.CreateStore(request, timeout=self._timeout_s)

    def get(self, name: str) -> stores_pb2.Store:
        """Return one store; NotFound if the process does not hold it."""
        return self._stub.GetStore(stores_pb2.GetStoreRequest(name=name), timeout=self._timeout_s)

    def list(self, project: str = "default") -> Iterator[stores_pb2.Store]:
        """Yield all stores of a project, by name."""
        request = stores_pb2.ListStoresRequest(parent=f"projects/{project}")
        for page in pages(partial(self._stub.ListStores, timeout=self._timeout_s), request):
            yield from page.stores

    def delete(self, name: str, *, epoch: int = 0) -> None:
        """Forget a store if its epoch is `epoch` or older; 0: whatever it is."""
        self._stub.DeleteStore(stores_pb2.DeleteStoreRequest(name=name, epoch=epoch), timeout=self._timeout_s)

    def set_members(
        self, name: str, workers: Sequence[int], *, epoch: int, generation: int
    ) -> stores_pb2.Store:
        """Let these workers' gradients count from now on; the generation grows with each change."""
        request = members_pb2.SetMembersRequest(
            name=name, epoch=epoch, generation=generation, workers=workers
        )
        return self._stub.SetMembers(request, timeout=self._timeout_s)

    def restore(self, name: str, artifact: str, *, epoch: int) -> stores_pb2.Store:
        """Put a snapshot back."""
        request = stores_pb2.RestoreRequest(name=name, epoch=epoch, artifact=artifact)
        return self._stub.Restore(request, timeout=self._timeout_s)

    def reshard(
        self,
        name: str,
        *,
        epoch: int,
        shards: Sequence[str],
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        map_epoch: int = 1,
    ) -> resharding_pb2.ReshardResponse:
        """Let the shards at the addresses `add` join a store while workers go on, and those at `remove` leave.

        Args:
            shards: Addresses of all processes that hold a shard now; this one among them.
            map_epoch: The epoch of the shard map that holds now.
        Raises:
            HeadraceError: As `Resharding.Reshard` says; the old map is in force.
        """
        request = resharding_pb2.ReshardRequest(
            store=name, epoch=epoch, map_epoch=map_epoch, shards=shards, add=add, remove=remove
        )
        return self._resharding.Reshard(request, timeout=self._timeout_s)
