# length: one model and one machine that drives it, read as a whole
"""Partitions, crashes, promotions and pushes in any order: no acknowledged push is lost, none is applied twice, one process acknowledges."""

from dataclasses import dataclass, field
from typing import cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import FailedPrecondition, StaleTerm, Unavailable
from headrace_parameters.core.outbox import Base, Item
from headrace_parameters.core.state import ShardState
from headrace_parameters.core.tenure import Assignment, Role, Tenure
from headrace_parameters.replication.replicated import Replicated

EMPTY = memoryview(b"")


@dataclass
class Process:
    """A process: its side of the store, and the pushes it has applied in their order, which stand for the values."""

    address: str
    side: Replicated
    applied: list[int] = field(default_factory=list)
    unanswered: dict[int, int] = field(default_factory=dict)  # push to the position it waits for

    @property
    def tenure(self) -> Tenure:
        return self.side.tenure


@dataclass
class Connection:
    """What a primary has sent, and what of it the replica has answered, on one stream."""

    sender: Process
    receiver: Process
    term: int
    held: int | None
    sent: Item | None = None
    marked: bool = False
    answers: list[tuple[int | None, bool]] = field(default_factory=list)


class Replication(RuleBasedStateMachine):
    """The world is the test: it moves every message, or does not, and knows what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[str, Process] = {}
        self.connection: Connection | None = None
        self.cut: set[str] = set()
        self.frozen: set[str] = set()
        self.pushes = self.started = 0
        self.orders: list[tuple[str, Assignment]] = []  # on their way
        self.acknowledged: list[int] = []
        self.acknowledging: dict[int, set[str]] = {}
        self.term = 0
        self.primary = self.replica = ""  # as the authority has them
        self.lost = False  # the authority has nobody left who has everything
        self.synced = False  # the authority was told so

    def _start(self, role: Role, replica: str = "") -> str:
        address = f"process-{self.started}"
        self.started += 1
        tenure = Tenure.first(Assignment(self.term, role, replica))
        self.processes[address] = Process(address, Replicated("store", tenure))
        return address

    @initialize()
    def begin(self) -> None:
        self.term = 1
        self.replica = self._start(Role.REPLICA)
        self.primary = self._start(Role.PRIMARY, self.replica)
        self.settle()

    @rule()
    def settle(self) -> None:
        """Let everything arrive that can."""
        for address, order in self.orders:
            self._deliver(address, order)
        sender = self.processes.get(self.primary)
        if sender and sender.tenure.replica:
            self._connect(sender)
            for _ in range(4):
                self.exchange(8, 8)
        self.answer()
        self.look()

    # Whoever calls: any process, as somebody may who has not heard the news

    @rule(data=st.data())
    def push(self, data: st.DataObject) -> None:
        """Send a new push, or one that was not answered, to some process."""
        process = self.processes[data.draw(st.sampled_from(self._primaries_first()))]
        number = data.draw(st.integers(max(0, self.pushes - 2), self.pushes))
        self._push(process, number)

    def _push(self, process: Process, number: int) -> None:
        self.pushes = max(self.pushes, number + 1)
        if process.address in self.frozen or process.tenure.role is not Role.PRIMARY:
            return
        if number not in process.applied:
            process.side.add(str(number).encode(), EMPTY)
            process.applied.append(number)
            if process.side.base_wanted:
                process.side.begin(cast("ShardState", list(process.applied)))
        process.unanswered[number] = process.side.position

    @rule(moves=st.lists(st.sampled_from(["push", "send", "confirm", "answer", "look"]), max_size=30))
    def bustle(self, moves: list[str]) -> None:
        """Do much at the primary in a row, each message at a moment of its own."""
        for move in moves:
            process = self.processes.get(self.primary)
            if move != "push":
                getattr(self, move)()
            elif process:
                self._push(process, self.pushes)

    def _primaries_first(self) -> list[str]:
        """List whom a caller may ask: mostly those who serve, or have, in the order of their terms."""
        processes = self.processes.values()
        serving = sorted(
            (p for p in processes if p.tenure.role is Role.PRIMARY), key=lambda p: -p.tenure.term
        )
        return [p.address for p in serving] or sorted(self.processes)

    @rule()
    def answer(self) -> None:
        """Let every process that runs answer what it may."""
        for process in self.processes.values():
            for number, position in list(process.unanswered.items()):
                if process.address not in self.frozen and process.side.may_tell(position):
                    del process.unanswered[number]
                    self.acknowledged.append(number)
                    self.acknowledging.setdefault(process.tenure.term, set()).add(process.address)

    # The connection

    @rule(messages=st.integers(0, 8), answers=st.integers(0, 8))
    def exchange(self, messages: int, answers: int) -> None:
        """Let some messages and answers cross."""
        for _ in range(messages):
            self.send()
        for _ in range(answers):
            self.confirm()

    @rule(data=st.data(), messages=st.integers(1, 8), answers=st.integers(0, 8))
    def connect(self, data: st.DataObject, messages: int, answers: int) -> None:
        """Begin a stream of some process that has a replica to send to."""
        senders = sorted(
            (p for p in self.processes.values() if p.tenure.replica), key=lambda p: -p.tenure.term
        )
        if senders:
            self._connect(data.draw(st.sampled_from(senders)))
            self.exchange(messages, answers)

    def _connect(self, sender: Process) -> None:
        receiver = self.processes.get(sender.tenure.replica)
        self.disconnect()
        if receiver is None or not self._reaches(sender, receiver):
            return
        if not self._admitted(sender, receiver):
            return
        term, held = sender.tenure.term, receiver.side.held
        if sender.side.connected(term, held):
            if sender.side.base_wanted:
                sender.side.begin(cast("ShardState", list(sender.applied)))
            self.connection = Connection(sender, receiver, term, held)

    @rule()
    def disconnect(self) -> None:
        if self.connection and self.connection.sender.address not in self.frozen:
            self.connection.sender.side.disconnected(self.connection.term, Unavailable("cut"))
        self.connection = None

    def _reaches(self, one: Process, other: Process) -> bool:
        return not {one.address, other.address} & (self.cut | self.frozen)

    def _admitted(self, sender: Process, receiver: Process) -> bool:
        try:
            receiver.tenure.check_follows(sender.tenure.term, "store")
        except StaleTerm as error:
            sender.side.depose(int(error.metadata["term"]), receiver.address)
            return False
        except FailedPrecondition:
            return False
        return True

    def send(self) -> None:
        """Let one message cross, if the other side is there."""
        connection = self.connection
        if not connection:
            return
        sender, receiver = connection.sender, connection.receiver
        if not self._reaches(sender, receiver) or sender.tenure.term != connection.term:
            return
        item = sender.side.next_item(connection.sent, connection.held)
        if item is None:
            if not connection.marked and sender.side.marker_is_due(connection.sent, connection.held):
                connection.marked = True
                if self._admitted(sender, receiver):
                    receiver.side.caught_up(connection.term)
                    connection.answers.append((receiver.side.held, receiver.tenure.synced))
            return
        connection.sent = item
        if not self._admitted(sender, receiver):
            return
        if receiver.side.follows(connection.term, item.number, base=isinstance(item, Base)):
            if isinstance(item, Base):
                receiver.applied = list(cast("list[int]", item.state) or [])
            else:
                receiver.applied.append(int(item.header))
            receiver.side.hold(item.number)
        connection.answers.append((receiver.side.held, receiver.tenure.synced))

    def confirm(self) -> None:
        """Let one answer reach the primary, maybe long after it was given."""
        connection = self.connection
        if not connection or not connection.answers:
            return
        if connection.sender.address in self.cut | self.frozen:
            return
        held, synced = connection.answers.pop(0)
        connection.sender.side.confirmed(connection.term, held, (), synced=synced)

    # The world

    @rule(data=st.data())
    def cut_or_mend(self, data: st.DataObject) -> None:
        self.cut = set() if self.cut else {data.draw(st.sampled_from(sorted(self.processes)))}

    @rule(data=st.data())
    def freeze_or_thaw(self, data: st.DataObject) -> None:
        self.frozen = set() if self.frozen else {data.draw(st.sampled_from(sorted(self.processes)))}

    # The authority, which reaches a process or does not, and never decides twice in one term

    def look(self) -> None:
        """Ask the primary whether its replica is synced."""
        process = self.processes.get(self.primary)
        if (
            process
            and not self.lost
            and self._listens(process)
            and process.tenure.term == self.term
            and self.replica
        ):
            self.synced = self.synced or process.tenure.synced

    @rule()
    @precondition(lambda self: self.replica and not self.lost)
    def diverge(self) -> None:
        """The replica finds that what it has is not what the primary has, and discards it."""
        replica = self.processes[self.replica]
        if replica.tenure.role is Role.REPLICA and replica.side.held is not None:
            replica.side.diverge()
            replica.applied = []
            self.disconnect()

    @rule()
    @precondition(lambda self: self.replica and self.synced and not self.lost)
    def promote(self) -> None:
        """The primary is given up, wherever it may still run."""
        self.lost = not self.processes[self.replica].tenure.synced
        self.term += 1
        self.primary, self.replica, self.synced = self.replica, "", False
        self._order(Assignment(self.term, Role.PRIMARY))

    @rule()
    @precondition(lambda self: self.replica and not self.lost)
    def give_replica_up(self) -> None:
        self.term += 1
        self.replica, self.synced = "", False
        self._order(Assignment(self.term, Role.PRIMARY))

    @rule()
    @precondition(lambda self: not self.replica and not self.lost and len(self.processes) < 6)
    def add_replica(self) -> None:
        self.term += 1
        self.replica = self._start(Role.REPLICA)
        self._order(Assignment(self.term, Role.PRIMARY, self.replica))

    @rule(data=st.data())
    @precondition(lambda self: len(self.processes) > 2)
    def crash(self, data: st.DataObject) -> None:
        """End a process with all it has."""
        gone = self.processes.pop(data.draw(st.sampled_from(sorted(self.processes))))
        if self.connection and gone in (self.connection.sender, self.connection.receiver):
            self.disconnect()
        if gone.address == self.primary and not self.synced:
            self.lost = True
        elif gone.address == self.primary:
            self.promote()
        elif gone.address == self.replica:
            self.give_replica_up()

    def _order(self, order: Assignment) -> None:
        """Send an order, which may arrive late, repeatedly, or never, and after later ones."""
        self.lost = self.lost or self.primary not in self.processes
        self.orders.append((self.primary, order))

    @rule(data=st.data())
    @precondition(lambda self: self.orders)
    def deliver_order(self, data: st.DataObject) -> None:
        self._deliver(*data.draw(st.sampled_from(self.orders[::-1])))

    def _deliver(self, address: str, order: Assignment) -> None:
        process = self.processes.get(address)
        if process is None or not self._listens(process):
            return
        try:
            process.side.assign(order)
        except StaleTerm:
            assert process.tenure.term > order.term
        except FailedPrecondition:
            assert self.lost, "only a replica that discarded what it had refuses to be promoted"

    def _listens(self, process: Process) -> bool:
        return process.address not in self.cut | self.frozen

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        """Whoever is the primary of the greatest term has it all, and so has the replica that may be promoted."""
        if self.lost or not self.primary:
            return
        replica = self.processes.get(self.replica)
        holders = [self.primary] + (
            [self.replica] if self.synced and replica and replica.tenure.synced else []
        )
        for address in holders:
            missing = set(self.acknowledged) - set(self.processes[address].applied)
            assert not missing, f"{address} lacks {missing} of {self.acknowledged}"

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        for process in self.processes.values():
            assert len(process.applied) == len(set(process.applied))

    @invariant()
    def one_process_acknowledges_in_a_term(self) -> None:
        assert all(len(addresses) == 1 for addresses in self.acknowledging.values())


TestReplication = Replication.TestCase
TestReplication.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much],
)
