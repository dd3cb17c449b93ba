"""Whatever happens in whatever order: what must hold after every event, and that everything ends once the world behaves."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from headrace_scheduler.core.events import JobCancelled, JobResharded, NodeDrained, TaskState
from headrace_scheduler.core.jobs import JobState
from headrace_scheduler.core.nodes import NodeKind
from headrace_scheduler.core.placement import Usage
from tests.unit.scheduler.simulated_node import SimulatedNode
from tests.unit.scheduler.world import LEASE_S, PROJECT, World

KINDS = (NodeKind.TRAINING, NodeKind.PARAMETERS)
REASONS = ("PROGRAM_FAILED", "TASK_CRASHED", "UNAVAILABLE")


class SchedulerHistory(RuleBasedStateMachine):
    """A world in which anything may happen to nodes, tasks, callers and the scheduler itself."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        for kind, count in ((NodeKind.TRAINING, 3), (NodeKind.PARAMETERS, 4)):
            for number in range(count):
                self.world.start(f"{kind.lower()}-{number}", kind, slots=1 + number % 2)
        self.attempts: dict[str, int] = {}
        self.finals: dict[str, JobState] = {}
        self.submitted = 0

    @rule(
        target=jobs,
        workers=st.integers(1, 4),
        shards=st.integers(0, 2),
        least=st.integers(0, 2),
        replicated=st.booleans(),
    )
    def submit(self, workers: int, shards: int, least: int, replicated: bool) -> str:
        self.submitted += 1
        job_id = f"job{self.submitted}"
        least = min(least, workers)
        twice = replicated and shards > 0
        self.world.submit(job_id, workers, shards, attempts=3, min_workers=least, replicated=twice)
        return job_id

    @rule(job_id=consumes(jobs))
    def cancel(self, job_id: str) -> None:
        if not self.world.job(job_id).state.final:
            self.world.handle(JobCancelled(f"{PROJECT}/jobs/{job_id}"))

    @rule(job_id=jobs, shards=st.integers(1, 2))
    def reshard(self, job_id: str, shards: int) -> None:
        job = self.world.job(job_id)
        changes = job.state.placed and not job.replicated  # else the rpc refuses it
        if job.shards and (changes or job.state is JobState.QUEUED):
            self.world.handle(JobResharded(f"{PROJECT}/jobs/{job_id}", shards))

    @rule()
    def deliver(self) -> None:
        self.world.deliver()

    @rule(seconds=st.floats(0.5, LEASE_S * 1.5))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(pick=st.integers(0, 100), succeeds=st.booleans(), reason=st.sampled_from(REASONS))
    def end_task(self, pick: int, succeeds: bool, reason: str) -> None:
        active = self._active_tasks()
        if active:
            task = active[pick % len(active)].removeprefix(f"{PROJECT}/tasks/")
            self.world.succeed(task, "v") if succeeds else self.world.fail(task, reason)

    @rule(pick=st.integers(0, 100), step=st.integers(1, 50))
    def run_task(self, pick: int, step: int) -> None:
        active = self._active_tasks()
        if active:
            self.world.checkpoint(
                active[pick % len(active)].removeprefix(f"{PROJECT}/tasks/"), step, shards=2
            )

    @rule(pick=st.integers(0, 100))
    def be_ready(self, pick: int) -> None:
        active = self._active_tasks()
        if active:
            self.world.be_ready(active[pick % len(active)].removeprefix(f"{PROJECT}/tasks/"))

    @rule(pick=st.integers(0, 6), recovers=st.booleans(), port=st.integers(1, 2))
    def restart_node(self, pick: int, recovers: bool, port: int) -> None:
        self.world.restart(self._node(pick).name, recovers=recovers, port=port)

    @rule(pick=st.integers(0, 6))
    def leave_and_come_back(self, pick: int) -> None:
        node = self._node(pick)
        if self._holds_the_lease(node):
            self.world.report(node.name, leaving=True)
        self.world.restart(node.name)

    @rule(pick=st.integers(0, 6), frozen=st.booleans())
    def freeze_or_thaw(self, pick: int, frozen: bool) -> None:
        self._node(pick).frozen = frozen

    @rule(pick=st.integers(0, 6), drained=st.booleans())
    def drain_or_resume(self, pick: int, drained: bool) -> None:
        name = f"nodes/{self._node(pick).name}"
        if name in self.world.machine.tables.nodes:
            self.world.handle(NodeDrained(name, drained))

    @rule()
    def kill_the_scheduler(self) -> None:
        self.world.restart_scheduler()

    @invariant()
    def no_slot_is_given_twice(self) -> None:
        tables = self.world.machine.tables
        usage = Usage.of(tables)
        for node in tables.nodes.values():
            placed = [
                member.resource
                for job in tables.jobs.values()
                for member in job.members
                if member.node == node.name and member.incarnation == node.incarnation and member.state.active
            ]
            assert len(placed) <= node.slots, (node.name, placed)
            assert usage.free(node) >= 0

    @invariant()
    def a_gang_is_whole_or_absent(self) -> None:
        for job in self.world.machine.tables.jobs.values():
            if job.state.placed:
                joined = len(job.joined_tasks)
                assert (job.min_workers or job.workers) <= joined <= len(job.tasks) <= job.workers
                assert job.min_workers or joined == job.workers
                ranks = [task.index for task in job.tasks]
                assert ranks == sorted(set(ranks))
                assert not ranks or ranks[-1] < job.next_rank
                stores = (*job.stores, *job.joining_stores, *job.replicas)
                assert bool(job.stores) == bool(job.shards)
                assert len({store.node for store in stores}) == len(stores)
                assert len({(store.index, store.replica) for store in stores}) == len(stores)
            if job.state is JobState.QUEUED:
                assert job.members == ()

    @invariant()
    def attempts_only_grow_and_final_is_final(self) -> None:
        for number in range(1, self.submitted + 1):
            job = self.world.job(f"job{number}")  # a KeyError here is a lost job
            assert job.attempt >= self.attempts.get(job.name, 0)
            assert job.counted_attempts <= job.max_attempts
            self.attempts[job.name] = job.attempt
            if job.name in self.finals:
                assert job.state is self.finals[job.name]
            if job.state.final:
                self.finals[job.name] = job.state

    def teardown(self) -> None:
        """Let the world behave: every accepted job ends, and leaves nothing behind."""
        for node in self.world.nodes.values():
            node.frozen = False
        self.world.pass_time(LEASE_S * 2)
        for node in self.world.nodes.values():
            self.world.handle(NodeDrained(f"nodes/{node.name}", drained=False))
        for _ in range(40 + 10 * self.submitted):
            self.world.deliver()
            for task in self._active_tasks():
                self.world.succeed(task.removeprefix(f"{PROJECT}/tasks/"), "v")
            self.world.pass_time(LEASE_S)
        for number in range(1, self.submitted + 1):
            job = self.world.job(f"job{number}")
            assert job.state.final or job.workers > 4, job
            assert job.settled
        assert not self._active_tasks()
        assert not any(node.stores for node in self.world.nodes.values())

    def _node(self, pick: int) -> SimulatedNode:
        return list(self.world.nodes.values())[pick]

    def _active_tasks(self) -> list[str]:
        return [
            name
            for node in self.world.nodes.values()
            if not node.frozen and self._holds_the_lease(node)
            for name, task in node.tasks.items()
            if task.state in (TaskState.STARTING, TaskState.RUNNING)
        ]

    def _holds_the_lease(self, node: SimulatedNode) -> bool:
        known = self.world.machine.tables.nodes.get(f"nodes/{node.name}")
        return known is not None and known.incarnation == node.incarnation and not known.lost


SchedulerHistory.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSchedulerHistory = SchedulerHistory.TestCase
