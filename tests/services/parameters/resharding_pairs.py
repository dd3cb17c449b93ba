"""Stores whose shards are in two processes each, of which any may be lost at any moment of a change of their map, in tests.

Participants, their files, records on their way to replicas, and how those in doubt find out are the real ones; connections, the authority and
whoever leads are played.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from headrace.errors import HeadraceError, StaleTerm, Unavailable
from headrace.parameters.cut import latest
from headrace.parameters.v1 import stores_pb2
from headrace.testing.patience import until
from headrace_optimizers.table_config import TableConfig
from headrace_parameters import replicated_store
from headrace_parameters.core.outbox import Base, Item
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.standing import Point, complete_gradients
from headrace_parameters.core.tenure import Assignment, Role, Tenure
from headrace_parameters.participant import Participant
from headrace_parameters.plan import Plan
from headrace_parameters.planning import plan_change
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.replication.bases import decode_base, encode_base
from headrace_parameters.replication.replicated import Replicated
from tests.services.parameters.parameter_server import NAME, create_request
from tests.services.parameters.replica_pair import primary, replica
from tests.services.parameters.resharding_machines import (
    KEPT,
    LAYOUT,
    SENT_AGAIN,
    START,
    WORKERS,
    Machine,
    Machines,
    part_of,
    push_to,
)

PRIMARIES, REPLICAS = ("p0", "p1", "p2"), ("r0", "r1", "r2")
ALL = (*PRIMARIES, *REPLICAS)


class DirectFeed:
    """A feed without a network, as `Feed`: it ends and begins again whenever two processes cannot reach each other."""

    def __init__(
        self,
        world: "PairsOfMachines",
        store: ReplicatedStore,
        replicated: Replicated,
        tenure: Tenure,
        _lent: PublishedMemory,
    ) -> None:
        self._world, self._store, self._replicated = world, store, replicated
        self._term, self._address = tenure.term, tenure.replica
        self._ended = False
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        with self._replicated.changed:
            self._ended = True
            self._replicated.changed.notify_all()

    def _run(self) -> None:
        while not self._ended:
            try:
                self._connect()
            except StaleTerm as error:
                self._replicated.depose(int(error.metadata["term"]), self._address)
                self._store.stop_serving()
                return
            except HeadraceError as error:
                with self._replicated.changed:
                    if not self._ended:
                        self._replicated.disconnected(self._term, error)
                        self._replicated.changed.wait(0.005)

    def _connect(self) -> None:
        other = self._world.reached(self._address)
        other.replicated.tenure.check_follows(self._term, NAME)
        other.check_changed_with(self._store.map.epoch if self._store.map else 0)
        held = other.replicated.held
        with self._replicated.changed:
            if self._ended or not self._replicated.connected(self._term, held):
                return
        self._store.offer_base()
        sent, marked = None, False
        while not self._ended:
            with self._replicated.changed:
                item = self._replicated.next_item(sent, held)
                mark = not marked and item is None and self._replicated.marker_is_due(sent, held)
                if item is None and not mark:
                    self._replicated.changed.wait(0.005)
            if self._world.reached(self._address) is not other:
                raise Unavailable("it has changed")
            if item is not None:
                self._deliver(other, item)
                sent = item
            if mark:
                other.replicated.caught_up(self._term)
                marked = True
            self._replicated.confirmed(
                self._term, other.replicated.held, (), synced=other.replicated.tenure.synced
            )

    def _deliver(self, other: ReplicatedStore, item: Item) -> None:
        if isinstance(item, Base):
            state = decode_base(*encode_base(item.state)) if item.state else None
            other.follow_base(self._term, item.number, state)
        else:
            payload, generation = memoryview(bytearray(item.payload)), other.members.generation
            summed = other.config.durability.logged
            sealed = Sealed.received(item.header, payload, generation, summed=summed)
            other.follow(self._term, item.number, sealed)
        other.wait_until_logged()


class PairsOfMachines(Machines):
    """Shards 0 and 1 have a store, each in a primary and a replica; a pair for shard 2 is made, and shall take part."""

    def __init__(
        self,
        folder: Path,
        durability: stores_pb2.Durability.ValueType,
        tables: Sequence[TableConfig] = (),
    ) -> None:
        super().__init__()
        self._patched = pytest.MonkeyPatch()
        self._patched.setattr(replicated_store, "Feed", partial(DirectFeed, self))
        self.cut_off: set[str] = set()  # they reach nobody, and are reached by whoever asks what they have
        self.machines: dict[str, Machine] = {name: Machine(folder / name, self, 2) for name in ALL}
        self.serving = dict(enumerate(PRIMARIES))  # as the authority has it
        self.terms = dict.fromkeys(range(3), 1)
        self.told = False  # whoever asked for the change
        for machine in self.machines.values():
            machine.start()
        for shard in range(3):
            self._create(shard, durability)
        for shard in (0, 1):
            machine = self.machines[PRIMARIES[shard]]
            machine.store.initialize(LAYOUT, part_of(machine, START), tables)
            for worker in WORKERS:
                push_to(machine, worker, 0)
            push_to(machine, KEPT, 1)
        push_to(self.machines["p0"], SENT_AGAIN, 1)
        until(lambda: all(self.store(name).replicated.tenure.synced for name in ALL))
        self.plan: Plan = plan_change(self.store("p0"), self, PRIMARIES[:2], PRIMARIES[2:], [])
        self.parts: dict[str, Participant] = {}
        self.agreed = False
        self.lost: set[str] = set()

    def _create(self, shard: int, durability: stores_pb2.Durability.ValueType) -> None:
        for name, assignment in (
            (REPLICAS[shard], replica(1)),
            (PRIMARIES[shard], primary(1, REPLICAS[shard])),
        ):
            request = create_request(
                shard_index=shard,
                shard_count=3 if shard == 2 else 2,
                worker_count=len(WORKERS),
                learning_rate=1,
                durability=durability,
                assignment=assignment,
            )
            request.joins = shard == 2
            self.machines[name].create(request)

    def store(self, name: str) -> ReplicatedStore:
        store = self.machines[name].store
        assert isinstance(store, ReplicatedStore)
        return store

    def machine(self, address: str) -> Machine:
        machine = self.machines[address]
        if not machine.runs:
            raise Unavailable(f"{address} was killed")
        return machine

    def reached(self, address: str) -> ReplicatedStore:
        """Return what a primary reaches there; Unavailable if nothing."""
        pair = {address, address.translate(str.maketrans("pr", "rp"))}
        if pair & self.cut_off:
            raise Unavailable(f"{address} is not reached")
        self.machine(address)
        return self.store(address)

    @classmethod
    @contextmanager
    def made(cls, *args: Any) -> Iterator[Self]:
        world = cls(*args)
        try:
            yield world
        finally:
            world.close()

    # The change

    def step(self, led: Iterator[None]) -> None:
        """Let the leader take a step, if it can still."""
        with suppress(HeadraceError):
            next(led, None)

    def lead(self, order: Sequence[str]) -> Iterator[None]:
        """Take the steps of a change in this order of the processes, with a moment between each two."""
        plan = self.plan
        for name in order:
            self._check_leads()
            machine = self.machine(name)
            self.parts[name] = Participant(machine.table, machine.store, plan)
            yield
        standings = {shard: self._part(name).move.standing() for shard, name in enumerate(PRIMARIES)}
        cut = latest([standings[shard].cut for shard in (0, 1)])
        for shard, name in enumerate(PRIMARIES):
            standings[shard] = self._part(name).settle(cut, 1, lambda: False)
        kept = complete_gradients([standings[shard] for shard in (0, 1)])
        point = Point(kept, {shard: standing.record for shard, standing in standings.items()})
        for name in order:
            self._part(name).stage(point, self)
            self.machines[name].staged = True
            if name != "p0":  # which knows; the others may be told to serve at any moment
                self._find_out(name, self.parts[name])
            yield
        self._part("p0").move.agree()
        self.agreed = True
        yield
        for name in ("r0", "p0"):
            self._part(name).commit()
            yield
        self.told = True
        for name in order:
            with suppress(HeadraceError):
                self._part(name).commit()
            yield

    def _part(self, name: str) -> Participant:
        self._check_leads()
        if name not in self.parts:
            raise Unavailable(f"{name} was killed in the midst of it")
        return self.parts[name]

    def _check_leads(self) -> None:
        if "p0" in self.lost:
            raise Unavailable("the leader was killed")

    def stop_leading(self) -> None:
        """The leader is gone, or has given up: who has not staged gives up too, and who has staged asks."""
        for name, part in self.parts.items():
            machine = self.machines[name]
            if machine.runs and (not machine.staged or (name == "p0" and not self.agreed)):
                part.give_up()
        if self.agreed and "p0" in self.parts:
            self._find_out("p0", self.parts["p0"])

    def end(self) -> None:
        """Let those who serve find out what was decided."""
        for name, machine in self.machines.items():
            if machine.runs and machine.part:  # found on the disk
                self._find_out(name, machine.part)
        until(lambda: not any(self.machines[name].store.next_map for name in self.serving.values()))

    def _find_out(self, name: str, part: Participant) -> None:
        resolver = self.machines[name].resolver
        threading.Thread(target=resolver.resolve, args=[part], daemon=True).start()

    # What is lost

    def lose(self, name: str, how: str) -> None:
        """Let a process end, or be reached by its other one and the authority no more."""
        if how == "cut off":
            self.cut_off.add(name)
        else:
            self.machines[name].kill()
            self.parts.pop(name, None)
            self.lost.add(name)
        if how == "restarted":
            self.machines[name].start()

    def decide(self, name: str, *, serves_again: bool = False) -> None:
        """The authority: whoever of a shard's two processes is left serves it alone, or the lost one, which has its files."""
        shard = int(name[1])
        other = name.translate(str.maketrans("pr", "rp"))
        self.serving[shard] = name if serves_again else other
        self.terms[shard] += 1
        self.store(self.serving[shard]).assign(Assignment(self.terms[shard], Role.PRIMARY))

    def close(self) -> None:
        for machine in self.machines.values():
            if machine.runs:
                machine.kill()
        self._patched.undo()
