"""A small world around the scheduler's core: nodes that obey commands, a database, a clock. No threads, no wire."""

from dataclasses import replace
from typing import Any

from headrace_scheduler.core.commands import (
    Command,
    Issued,
    LoadModel,
    ResolveVersion,
    StopTask,
    UnloadModel,
)
from headrace_scheduler.core.deployments import Deployment, durable_deployment
from headrace_scheduler.core.events import (
    CommandDone,
    DeploymentCreated,
    Event,
    JobSubmitted,
    NodeAttached,
    NodeDetached,
    NodeReported,
    TaskState,
    Ticked,
)
from headrace_scheduler.core.jobs import Checkpoint, Failure, Job, JobKind, Progress, Result, durable_job
from headrace_scheduler.core.machine import Changes, Machine, Outcome
from headrace_scheduler.core.nodes import Node, NodeKind, RecoveredStore, durable_node
from headrace_scheduler.core.tables import Change
from tests.unit.scheduler.simulated_node import SimulatedNode

LEASE_S = 6.0
PROJECT = "projects/default"


class World:
    """Nodes, a scheduler, and rows that survive it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.machine = Machine(LEASE_S, self.now)
        self.nodes: dict[str, SimulatedNode] = {}
        self.pending: list[Issued] = []
        self.rows: list[dict[str, Any]] = [{}, {}, {}, {}, {}]
        self._incarnations = 0

    # The scheduler

    def handle(self, event: Event) -> Outcome:
        outcome = self.machine.handle(event, self.now)
        self._write(outcome.durable)
        self.machine.commit()
        self.pending = [
            issued for issued in self.pending if issued.command.target.node not in outcome.abandoned
        ]
        self.pending += outcome.commands
        return outcome

    def _write(self, changes: Changes) -> None:
        tables: tuple[list[Change[Any]], ...] = (
            changes.pools,
            changes.nodes,
            changes.jobs,
            changes.deployments,
            changes.hosted,
        )
        for rows, table in zip(self.rows, tables, strict=True):
            for change in table:
                if change.new is None:
                    del rows[change.key]
                else:
                    rows[change.key] = change.new

    def restart_scheduler(self) -> None:
        """Kill the scheduler: what was under way is lost, the rows remain."""
        former = self.machine
        self.pending.clear()
        self.machine = Machine(LEASE_S, self.now)
        pools, nodes, jobs, deployments, hosted = ([*rows.values()] for rows in self.rows)
        sequence = max([0, *(row.sequence for row in [*jobs, *deployments])])
        unsettled = [job for job in jobs if not job.settled]
        durable = [durable_node(node) for node in nodes]
        self.machine.restore(pools, durable, unsettled, deployments, hosted, sequence, self.now)
        assert self._state(self.machine) == self._state(former), "the rows do not tell the whole state"
        for node in self.nodes.values():
            if not node.frozen:
                self.attach(node.name)

    @staticmethod
    def _state(machine: Machine) -> tuple[object, ...]:
        tables = machine.tables
        return (
            {name: durable_node(node) for name, node in tables.nodes.items()},
            {name: durable_job(job) for name, job in tables.jobs.items()},
            {name: durable_deployment(row) for name, row in tables.deployments.items()},
            dict(tables.hosted),
        )

    def job(self, job_id: str) -> Job:
        name = f"{PROJECT}/jobs/{job_id}"
        found = self.machine.tables.jobs.get(name) or self.rows[2][name]
        assert isinstance(found, Job)
        return found

    def deployment(self, name: str) -> Deployment:
        return self.machine.tables.deployments[f"{PROJECT}/deployments/{name}"]

    # Callers

    def submit(
        self,
        job_id: str,
        workers: int = 1,
        shards: int = 1,
        *,
        pool: str = "pools/default",
        attempts: int = 5,
        min_workers: int = 0,
        replicated: bool = False,
    ) -> Job:
        name, kind = f"{PROJECT}/jobs/{job_id}", JobKind.TRAIN
        made = Job(name, b"spec", kind, pool, workers, shards, attempts, create_time=self.now)
        job = replace(made, min_workers=min_workers, replicated=replicated)
        self.handle(JobSubmitted(job))
        return self.job(job_id)

    def optimize(self, job_id: str) -> Job:
        job = Job(f"{PROJECT}/jobs/{job_id}", b"spec", JobKind.OPTIMIZE, "pools/default", 1, 0, 5, self.now)
        self.handle(JobSubmitted(job))
        return self.job(job_id)

    def deploy(self, name: str, version: int = 1, replicas: int = 1, project: str = PROJECT) -> Deployment:
        deployment = Deployment(
            name=f"{project}/deployments/{name}",
            version=f"{project}/models/{name}@latest",
            file="",
            replicas=replicas,
            pool="pools/default",
            resolved_version=f"{project}/models/{name}/versions/{version}",
            resolved_file="int8.onnx",
            create_time=self.now,
            update_time=self.now,
        )
        self.handle(DeploymentCreated(deployment))
        return self.machine.tables.deployments[deployment.name]

    # Nodes

    def start(self, name: str, kind: NodeKind, slots: int = 1, machine: str = "") -> SimulatedNode:
        """Start a process, or a new one in place of the old one."""
        self._incarnations += 1
        self.nodes[name] = SimulatedNode(name, kind, slots, f"incarnation-{self._incarnations}")
        self.nodes[name].machine = machine
        self.attach(name)
        return self.nodes[name]

    def restart(self, name: str, *, recovers: bool = False, port: int = 1) -> SimulatedNode:
        """Replace a process by a new one, which may have found the old one's stores on its disk."""
        node = self.nodes[name]
        self.handle(NodeDetached(f"nodes/{name}", node.incarnation))
        self._incarnations += 1
        incarnation, machine = f"incarnation-{self._incarnations}", node.machine
        new = SimulatedNode(name, node.kind, node.slots, incarnation, port=port, machine=machine)
        if recovers:
            new.stores, new.shards, new.pushed = node.stores, node.shards, node.pushed
            new.tenures = {store: tenure.restarted() for store, tenure in node.tenures.items()}
            shards = ((store, epoch, node.shards[store]) for store, epoch in node.stores.items())
            new.recovered = tuple(RecoveredStore(*shard, version=7) for shard in shards)
        self.nodes[name] = new
        self.attach(name)
        return new

    def attach(self, name: str) -> None:
        node = self.nodes[name]
        hello = Node(
            name=f"nodes/{name}",
            kind=node.kind,
            pool="pools/default",
            address=node.address,
            slots=node.slots,
            incarnation=node.incarnation,
            attach_time=0.0,
            recovered=node.recovered,
        )
        self.handle(NodeAttached(hello))
        self.report(name)

    def report(self, name: str, *, leaving: bool = False) -> None:
        node = self.nodes[name]
        tasks, models = tuple(node.tasks.values()), tuple(node.models.values())
        silent = node.silent_replicas(self.now)
        outcome = self.handle(NodeReported(f"nodes/{name}", node.incarnation, tasks, models, leaving, silent))
        for task in outcome.forget:
            node.tasks.pop(task, None)

    def run(self, task: str, step: int = 1, **change: Any) -> None:
        """Let a task say that it runs."""
        self.change(
            task,
            state=TaskState.RUNNING,
            progress=Progress(step, 100, "training", {"samples_per_s": 10.0}),
            **change,
        )

    def change(self, task: str, **change: Any) -> None:
        """Let a task change, and its node report it."""
        name = f"{PROJECT}/tasks/{task}"
        node = next(node for node in self.nodes.values() if name in node.tasks)
        node.tasks[name] = replace(node.tasks[name], **change)
        self.report(node.name)

    def succeed(self, task: str, version: str = "", *, led: bool = True) -> None:
        self.change(task, state=TaskState.SUCCEEDED, result=Result(version, {"accuracy": 0.98}, led))

    def be_ready(self, task: str) -> None:
        self.change(task, state=TaskState.RUNNING, ready=True)

    def fail(self, task: str, reason: str) -> None:
        self.change(task, state=TaskState.FAILED, failure=Failure(reason, f"{reason} happened"))

    def checkpoint(self, task: str, step: int, shards: int) -> None:
        snapshots = tuple(f"{PROJECT}/artifacts/{step}-{shard}" for shard in range(shards))
        self.change(task, state=TaskState.RUNNING, checkpoint=Checkpoint(step, snapshots))

    # Time and the wire

    def deliver(self) -> list[Command]:
        """Carry out all commands, those that follow from them too, on the nodes that are not frozen."""
        done: list[Command] = []
        for _ in range(50):
            ready = [issued for issued in self.pending if not self._frozen(issued.command)]
            if not ready:
                return done
            for issued in ready:
                if issued in self.pending:
                    self.pending.remove(issued)
                    done.append(issued.command)
                    self._answer(issued)
        raise AssertionError(
            f"the commands never end: {[type(issued.command).__name__ for issued in self.pending]}"
        )

    def _frozen(self, command: Command) -> bool:
        node = self.nodes.get(command.target.node.removeprefix("nodes/"))
        return node is not None and node.frozen

    def _answer(self, issued: Issued) -> None:
        command = issued.command
        if isinstance(command, ResolveVersion):
            self.handle(CommandDone(issued, version=f"{PROJECT}/models/digits/versions/1"))
            return
        node = self.nodes[command.target.node.removeprefix("nodes/")]
        self.handle(CommandDone(issued, node.perform(command)))
        if isinstance(command, StopTask | LoadModel | UnloadModel):
            self.report(node.name)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; nodes that are not frozen report in time."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            for node in list(self.nodes.values()):
                if not node.frozen:
                    self._renew(node)
            self.handle(Ticked())

    def _renew(self, node: SimulatedNode) -> None:
        known = self.machine.tables.nodes.get(f"nodes/{node.name}")
        if known is None or known.lost:
            self.attach(node.name)
        else:
            self.report(node.name)

    def running(self, job_id: str, workers: int = 1, shards: int = 1, **wished: Any) -> Job:
        """Submit a job and bring all its tasks to run."""
        self.submit(job_id, workers, shards, **wished)
        self.deliver()
        for rank in range(workers):
            self.run(f"{job_id}-1-train-{rank}")
        return self.job(job_id)


def cluster(training: int = 2, parameters: int = 2, inference: int = 0, optimization: int = 0) -> World:
    """Make a world with nodes of one slot (inference nodes: four)."""
    world = World()
    for kind, count, slots in (
        (NodeKind.TRAINING, training, 1),
        (NodeKind.PARAMETERS, parameters, 1),
        (NodeKind.OPTIMIZATION, optimization, 1),
        (NodeKind.INFERENCE, inference, 4),
    ):
        for number in range(count):
            world.start(f"{kind.lower()}-{number}", kind, slots)
    return world
