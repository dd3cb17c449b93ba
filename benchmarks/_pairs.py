"""Two parameter processes that hold one store, the second as the replica; each kill hits one of them, and a new one takes its place."""

from pathlib import Path

from benchmarks._victims import START_S, STORE, Victim
from headrace.parameters.client import StoresClient
from headrace.parameters.operation import Operation
from headrace.parameters.recoding import replication_stub
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA, Assignment
from headrace.parameters.v1.replication_pb2 import AssignRequest
from headrace.rpc.channel import open_channel

REPLICA_EVERY = 4  # one kill in so many hits the replica


class Pair:
    """As `Victim`; the authority over both.

    Args:
        folder: Where each process gets a folder of its own.
    """

    def __init__(self, folder: Path, *, snapshot_every: int) -> None:
        self._folder, self._snapshot_every = folder, snapshot_every
        self._started = self._kills = self._term = 0
        self._request = stores_pb2.CreateStoreRequest()
        self._primary, self._replica = self._new(), self._new()
        self._replica_killed = False

    def _new(self) -> Victim:
        folder = self._folder / str(self._started)
        folder.mkdir()
        self._started += 1
        return Victim(folder, snapshot_every=self._snapshot_every)

    @property
    def address(self) -> str:
        """Of the primary."""
        return self._primary.address

    @property
    def processor_s(self) -> float:
        """Processor time of the primary."""
        return self._primary.processor_s

    def begin(self, request: stores_pb2.CreateStoreRequest) -> None:
        """Start both and make the store in them."""
        self._request = request
        self._primary.start()
        self._replica.start()
        self._term = 1
        self._create(self._replica, Assignment(term=1, role=STORE_ROLE_REPLICA))
        primary = Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=self._replica.address)
        self._create(self._primary, primary)

    def prepare(self) -> None:
        """Wait until the replica has everything: from the next push that it answers a worker knows where to go."""
        with StoresClient(self.address) as stores:
            if not stores.get(STORE).assignment.replica:
                replica = Assignment(term=self._term + 1, role=STORE_ROLE_REPLICA)
                self._create(self._replica, replica)
                self._assign(self._replica.address)
            while not stores.get(STORE).replica_synced:
                pass

    def kill(self) -> None:
        """End the primary, or once in a while the replica."""
        self._kills += 1
        self._replica_killed = self._kills % REPLICA_EVERY == 0
        (self._replica if self._replica_killed else self._primary).kill()

    def start(self) -> None:
        """Let the other process serve, and give it a new replica, which catches up under load."""
        if not self._replica_killed:
            self._primary = self._replica
        self._assign("")
        self._replica = self._new()
        self._replica.start()

    def end(self) -> None:
        """End both."""
        self._primary.kill()
        self._replica.kill()

    def _create(self, victim: Victim, assignment: Assignment) -> None:
        request = stores_pb2.CreateStoreRequest(assignment=assignment)
        request.MergeFrom(self._request)
        victim.create(request)

    def _assign(self, replica: str) -> None:
        self._term += 1
        order = Assignment(term=self._term, role=STORE_ROLE_PRIMARY, replica=replica)
        request = AssignRequest(store=STORE, epoch=1, assignment=order)
        with open_channel(self.address) as channel:
            stub = replication_stub(channel)
            Operation(START_S).attempt(lambda: stub.Assign(request, timeout=10))
