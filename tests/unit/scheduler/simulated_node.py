"""One simulated process that does what the scheduler tells it, and fails the test when it is told too much."""

from dataclasses import dataclass, field, replace

from headrace.errors import HeadraceError
from headrace_parameters.core.tenure import Assignment, Role, Tenure
from headrace_scheduler.core import commands
from headrace_scheduler.core.commands import (
    Assign,
    Command,
    CreateStore,
    DeleteStore,
    LoadModel,
    Reshard,
    SetMembers,
    SetRanks,
    StartTask,
    StopTask,
    UnloadModel,
)
from headrace_scheduler.core.events import SilentReplica, TaskReport, TaskState
from headrace_scheduler.core.jobs import Failure
from headrace_scheduler.core.nodes import NodeKind, RecoveredStore, ServedModel


@dataclass
class SimulatedNode:
    """One process that does what it is told."""

    name: str
    kind: NodeKind
    slots: int
    incarnation: str
    tasks: dict[str, TaskReport] = field(default_factory=dict)
    stores: dict[str, int] = field(default_factory=dict)  # epoch by name: one shard of a store per process
    shards: dict[str, int] = field(default_factory=dict)  # which shard it is, by name of the store
    tenures: dict[str, Tenure] = field(default_factory=dict)  # what it is to those that have replicas
    made_as: dict[str, commands.Assignment] = field(default_factory=dict)
    # What was pushed to it, of stores with replicas: stands for their values.
    pushed: dict[str, set[int]] = field(default_factory=dict)
    # Of stores with replicas: since when, and in which term, it hears nothing of the replica.
    unheard: dict[str, tuple[int, float]] = field(default_factory=dict)
    recovered: tuple[RecoveredStore, ...] = ()
    models: dict[str, ServedModel] = field(default_factory=dict)
    members: dict[tuple[str, int], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    ranks: dict[str, SetRanks] = field(default_factory=dict)  # who the members are, by the task that was told
    maps: dict[tuple[str, int], tuple[int, tuple[int, ...]]] = field(
        default_factory=dict
    )  # of the stores it led
    frozen: bool = False
    port: int = 1
    machine: str = ""  # its own, called as it is, unless it is said
    started: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.machine or self.name}:{self.port}"

    @property
    def active(self) -> int:
        return sum(not task.state.final for task in self.tasks.values())

    def silent_replicas(self, now: float) -> tuple[SilentReplica, ...]:
        return tuple(
            SilentReplica(
                store,
                self.stores[store],
                self.shards[store],
                term,
                self.tenures[store].replica,
                now - since,
                "no route",
            )
            for store, (term, since) in self.unheard.items()
        )

    def perform(self, command: Command) -> Failure | None:
        match command:
            case CreateStore() | DeleteStore():
                return self._change_store(command)
            case Assign():
                return self._assign(command)
            case SetMembers():
                return self._set_members(command)
            case SetRanks():
                return self._set_ranks(command)
            case Reshard():
                return self._reshard(command)
            case StartTask() | StopTask():
                return self._change_task(command)
            case LoadModel(model=model, version=version, file=file):
                if version.endswith("/13"):
                    return Failure("INVALID_ARGUMENT", "not an ONNX model")
                self.models[model] = ServedModel(model, version, file, ready=True)
            case UnloadModel(model=model):
                self.models.pop(model, None)
        return None

    def _change_store(self, command: CreateStore | DeleteStore) -> Failure | None:
        held = self.stores.get(command.store)
        if isinstance(command, CreateStore):
            if held is not None and held > command.epoch:
                return Failure("STALE_EPOCH", "a newer attempt owns the store")
            if command.assignment:
                self._make_replicated(command.store, command.assignment, again=held == command.epoch)
            self.stores[command.store] = command.epoch
            self.shards[command.store] = command.index
            assert len(self.stores) <= self.slots, f"{self.name} holds more stores than it has slots"
            return None
        if held is None:
            return Failure("NOT_FOUND", "it is not held")
        if held > command.epoch:
            return Failure("STALE_EPOCH", "a newer attempt owns the store")
        del self.stores[command.store]
        self.tenures.pop(command.store, None)
        self.unheard.pop(command.store, None)
        return None

    def _make_replicated(self, store: str, assignment: commands.Assignment, *, again: bool) -> None:
        if again:
            assert assignment == self.made_as[store], "it is made a second time, as something else"
            return
        self.made_as[store] = assignment
        self.tenures[store] = Tenure.first(_read(assignment))
        self.pushed[store] = set()

    def _assign(self, command: Assign) -> Failure | None:
        if self.stores.get(command.store) != command.epoch:
            return Failure("NOT_FOUND", "it is not held")
        try:
            self.tenures[command.store] = self.tenures[command.store].assigned(
                _read(command.assignment), command.store
            )
        except HeadraceError as error:
            return Failure(error.reason, error.message)
        return None

    def _set_members(self, command: SetMembers) -> Failure | None:
        if self.stores.get(command.store) != command.epoch:
            return Failure("NOT_FOUND", "it is not held")
        told = self.members.get((command.store, command.epoch), (0, ()))
        new = command.generation, command.ranks
        assert new == told or command.generation > told[0], "an older generation, or other members in one"
        self.members[command.store, command.epoch] = command.generation, command.ranks
        return None

    def _set_ranks(self, command: SetRanks) -> Failure | None:
        if command.task not in self.tasks:
            return Failure("NOT_FOUND", "it is not known")
        told = self.ranks.get(command.task)
        newer = told is None or command.generation > told.generation
        assert newer or command == told, "an older generation, or other members in one"
        self.ranks[command.task] = command
        return None

    def _reshard(self, command: Reshard) -> Failure | None:
        if self.stores.get(command.store) != command.epoch:
            return Failure("NOT_FOUND", "it is not held")
        if command.store in self.tenures and self.tenures[command.store].role is not Role.PRIMARY:
            return Failure("NOT_PRIMARY", "another process serves the shard")
        epoch, shards = self.maps.get((command.store, command.epoch), (1, ()))
        if (epoch, shards) == (command.map_epoch + 1, command.next):
            return None  # a repeat
        if epoch != command.map_epoch:
            return Failure("SHARD_MAP_CHANGED", f"the map is {epoch}")
        self.maps[command.store, command.epoch] = epoch + 1, command.next
        return None

    def _change_task(self, command: StartTask | StopTask) -> Failure | None:
        known = self.tasks.get(command.task)
        if isinstance(command, StartTask):
            if known is None:
                assert command.task not in self.started, f"{command.task} is started a second time"
                self.started.append(command.task)
                self.tasks[command.task] = TaskReport(command.task, TaskState.STARTING, command.epoch)
            assert self.active <= self.slots, f"{self.name} runs more tasks than it has slots"
        elif known is None:
            return Failure("NOT_FOUND", "it is not known")
        elif not known.state.final:
            self.tasks[command.task] = replace(known, state=TaskState.STOPPED)
        return None


def _read(assignment: commands.Assignment) -> Assignment:
    role = Role.PRIMARY if assignment.primary else Role.REPLICA
    return Assignment(assignment.term, role, assignment.replica)
