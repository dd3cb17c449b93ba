"""Durable shards on machines that can be killed at any moment of a change of their map, in tests."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from headrace.errors import ReplicaUnreachable, Unavailable
from headrace.names import StoreName
from headrace.parameters.cut import latest
from headrace.parameters.keys import Arcs, Keys
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.loading import loader
from headrace_optimizers.row_config import RowSgd
from headrace_optimizers.row_initializer import Normal
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.assembly import Assembly, selected
from headrace_parameters.core.exchange import Push
from headrace_parameters.core.rows.part import TablePart
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.standing import Point, complete_gradients
from headrace_parameters.journal.journal import Limits
from headrace_parameters.journal.shelf import Shelf
from headrace_parameters.live import LiveStore
from headrace_parameters.move import parts_of
from headrace_parameters.participant import Participant
from headrace_parameters.peers import Peers
from headrace_parameters.plan import Plan
from headrace_parameters.planning import joining_request
from headrace_parameters.resolving import Resolver
from headrace_parameters.table import StoreTable
from headrace_parameters.wire import config_from_proto, store_to_proto
from tests.services.parameters.parameter_server import NAME, create_request

LAYOUT = FlatLayout((TensorSpec("w", (60,)),))
START = np.arange(60, dtype=np.float32)
WORDS = TableConfig("words", 2, Normal(0, 1e-9), RowSgd(1))
KEYS = np.arange(40, dtype=np.uint64)
COORDINATOR = 0
WORKERS = range(3)
KEPT, SENT_AGAIN = (
    0,
    1,
)  # whose gradients for step 1 both shards have, so that it was perhaps told so, or one of them alone
read = partial(config_from_proto, load=loader(()))


def gradient(worker: int, step: int) -> Floats:
    return np.random.default_rng([worker, step]).integers(-8, 8, 60).astype(np.float32)


def gradient_of_rows(worker: int, step: int) -> tuple[Keys, Floats]:
    """Each worker touches rows of its own in each step, and some that others touch."""
    generator = np.random.default_rng([worker, step, 1])
    keys = np.sort(generator.permutation(KEYS)[:20])
    return keys, generator.integers(-8, 8, (20, 2)).astype(np.float32)


def all_rows(steps: Sequence[int]) -> Floats:
    """The rows of KEYS after these steps of all workers."""
    rows = np.zeros((KEYS.size, 2), np.float32)
    for step in steps:
        for worker in WORKERS:
            keys, gradients = gradient_of_rows(worker, step)
            rows[keys.astype(int)] -= gradients / np.float32(len(WORKERS))
    return rows


@dataclass
class Machine:
    """A process that can be killed, and started again with what is on its disk."""

    folder: Path
    peers: Peers
    log_pushes: int = 1000
    table: StoreTable = field(init=False)
    part: Participant | None = None
    staged: bool = False
    runs: bool = False

    def start(self) -> None:
        shelf = Shelf(self.folder, Limits(1 << 30, self.log_pushes), read)
        self.table = StoreTable(max_stores=2, max_bytes=1 << 22, now=lambda: datetime.now(UTC), shelf=shelf)
        self.table.recover()
        self.resolver = Resolver(self.table, self.peers)
        self.part, self.staged, self.runs = None, False, True
        for part in self.resolver.resume():
            self.part, self.staged = part, True

    def kill(self) -> None:
        self.runs, self.part = False, None
        self.table.drain()
        self.table.close()  # else the lock of the folder stays with this process

    def create(self, request: stores_pb2.CreateStoreRequest) -> None:
        self.table.create(read(request), request, lambda _: None)

    @property
    def store(self) -> LiveStore:
        return self.table.get(StoreName.parse(NAME, field="store"))


def part_of(machine: Machine, values: Floats) -> Floats:
    return np.concatenate([values[part.start : part.stop] for part in machine.store.held(LAYOUT)])


def push_to(machine: Machine, worker: int, step: int) -> list[bool]:
    """Push what a worker has for a shard: rows, then dense values; say of each whether it was new."""
    store = machine.store
    rows = [partial(store.push_rows, table, _rows(store, worker, step)) for table in store.tables.values()]
    dense = partial(store.push, Push(worker, step, 1.0, part_of(machine, gradient(worker, step))))
    return [_told(push) for push in (*rows, dense)]


def _told(push: Callable[[], bool]) -> bool:
    """Push as a worker does: again, for as long as a replica on a busy machine has not confirmed it in time."""
    while True:
        with suppress(ReplicaUnreachable):
            return push()


def _rows(store: LiveStore, worker: int, step: int) -> RowPush:
    assert store.map
    keys, gradients = gradient_of_rows(worker, step)
    held = store.map.shard_of(keys) == store.config.shard_index
    return RowPush(worker, step, 1.0, keys[held], gradients[held])


class Machines(Peers):
    """Machines that ask each other, and take over values, without a network."""

    def machine(self, address: str) -> Machine:
        """Return the one there; Unavailable if it does not answer."""
        raise NotImplementedError

    def get(self, address: str, name: str) -> stores_pb2.Store:
        return store_to_proto(self.machine(address).table.get(StoreName.parse(name, field="store")))

    def values(
        self, source: str, ranges: Sequence[range], workers: Collection[int], assembly: Assembly
    ) -> None:
        store = self.machine(source).store
        part = store.shard.part(workers)
        found = selected(part, store.held(LAYOUT), ranges)
        for place, piece in zip(assembly.places(part.facts, ranges), found, strict=True):
            place.values[...] = piece.values

    def rows(
        self, source: str, arcs: Arcs, workers: Mapping[str, Collection[int]]
    ) -> Mapping[str, TablePart]:
        return dict(parts_of(self.machine(source).store, arcs, workers))


class World(Machines):
    """Machines 0 and 1 hold a store, and machine 2 shall."""

    def __init__(
        self,
        folder: Path,
        durability: stores_pb2.Durability.ValueType,
        tables: Sequence[TableConfig] = (),
        log_pushes: int = 1000,
    ) -> None:
        super().__init__()
        self.machines = [Machine(folder / str(index), self, log_pushes) for index in range(3)]
        for index, machine in enumerate(self.machines):
            machine.start()
            if index < 2:
                machine.create(
                    create_request(
                        shard_index=index,
                        shard_count=2,
                        worker_count=len(WORKERS),
                        learning_rate=1,
                        durability=durability,
                    )
                )
                machine.store.initialize(LAYOUT, part_of(machine, START), tables)
        for index in (0, 1):
            for worker in WORKERS:
                self.push(worker, 0, index)
            self.push(KEPT, 1, index)
        self.push(SENT_AGAIN, 1, 0)
        now = self.machines[0].store.map
        assert now
        addresses = {index: str(index) for index in range(3)}
        following = now.changed(add=[2], addresses=addresses)
        self.plan = Plan(replace(now, addresses=addresses), following, COORDINATOR, LAYOUT)
        self.machines[2].create(joining_request(store_to_proto(self.machines[0].store), 2, 3))
        self.decided = False
        self.left: set[str] = set()  # addresses

    def machine(self, address: str) -> Machine:
        machine = self.machines[int(address) % 10]
        if not machine.runs or address in self.left:
            raise Unavailable("nobody answers")
        return machine

    def push(self, worker: int, step: int, index: int) -> list[bool]:
        return push_to(self.machines[index], worker, step)

    def lead(self, order: Sequence[int]) -> Iterator[None]:
        """Take the steps of a change in this order of the machines, with a moment between each two."""
        plan = self.plan
        parts = {}
        for index in order:
            parts[index] = self.machines[index].part = Participant(
                self.machines[index].table, self.machines[index].store, plan
            )
            yield
        cut = latest([parts[index].move.standing().cut for index in (0, 1)])
        standings = [parts[index].settle(cut, 1, lambda: False) for index in (0, 1)]
        point = Point(complete_gradients(standings))
        for index in order:
            parts[index].stage(point, self)
            self.machines[index].staged = True
            yield
        for index in (COORDINATOR, *(index for index in order if index != COORDINATOR)):
            if self.machines[index].part is parts[index]:
                self._commit(self.machines[index])
            yield

    def _commit(self, machine: Machine) -> None:
        assert machine.part
        machine.part.commit()
        self.decided = True
        machine.part = None

    def end(self) -> None:
        """The leader is gone, or has given up: who has not staged gives up too, and who has staged asks, when all are back."""
        for index, machine in enumerate(self.machines):
            if machine.runs and machine.part and (index == COORDINATOR or not machine.staged):
                machine.part.give_up()
                machine.part = None
        for machine in self.machines:
            if not machine.runs:
                machine.start()
        for machine in self.machines:
            if machine.part:
                machine.resolver.resolve(machine.part)

    def restart(self) -> None:
        self.close()
        for machine in self.machines:
            machine.start()

    def close(self) -> None:
        for machine in self.machines:
            if machine.runs:
                machine.kill()
