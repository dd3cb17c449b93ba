"""Shards in two processes through losses, partitions and restarts in any order: what was acknowledged stays, as long as the attempt does."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.errors import FailedPrecondition, StaleTerm
from headrace_parameters.core.tenure import Role
from headrace_scheduler.core.jobs import JobState, Member
from headrace_scheduler.core.replicas import PATIENCE_S
from tests.unit.scheduler.simulated_node import SimulatedNode
from tests.unit.scheduler.world import LEASE_S, PROJECT, cluster

STORE = f"{PROJECT}/stores/a"
SHARDS = 2


class Shards:
    """A running job with replicas. A scheduler that cannot reach a process (`frozen`) does not keep it from serving whoever can."""

    def __init__(self, spare: int) -> None:
        self.world = cluster(training=1, parameters=2 * SHARDS + spare)
        self.world.running("a", shards=SHARDS, replicated=True)
        self.cut_off: set[str] = set()  # processes that no other one reaches
        self.cut: set[frozenset[str]] = set()  # pairs of processes that do not reach each other
        self.acknowledged: dict[int, set[int]] = {shard: set() for shard in range(SHARDS)}
        self.acknowledging: dict[tuple[int, int], set[str]] = {}  # processes by shard and term
        self.pushes = 0

    @property
    def nodes(self) -> list[SimulatedNode]:
        return [node for name, node in self.world.nodes.items() if name.startswith("parameters")]

    def process(self, member: Member) -> SimulatedNode | None:
        """Return the process of a member, if it is that very one."""
        node = self.world.nodes[member.node.removeprefix("nodes/")]
        holds = node.incarnation == member.incarnation and node.stores.get(STORE) == member.epoch
        return node if holds else None

    def follow(self, node: SimulatedNode) -> bool:
        """Send everything to the replica; return whether it has it."""
        tenure = node.tenures[STORE]
        other = next((other for other in self.nodes if other.address == tenure.replica), None)
        there = other is not None and other.stores.get(STORE) == node.stores[STORE]
        if other is None or not there or not self.reach(node, other):
            return False
        try:
            other.tenures[STORE].check_follows(tenure.term, STORE)
        except StaleTerm as error:
            node.tenures[STORE] = tenure.deposed(int(error.metadata["term"]))
            return False
        except FailedPrecondition:
            return False
        other.pushed[STORE] = set(node.pushed[STORE])
        other.tenures[STORE] = other.tenures[STORE].caught_up()
        node.tenures[STORE] = tenure.caught_up()
        return True

    def reach(self, one: SimulatedNode, other: SimulatedNode) -> bool:
        names = frozenset({one.name, other.name})
        return not names & self.cut_off and names not in self.cut

    def pass_time(self, seconds: float) -> None:
        """Let primaries notice whom they do not reach, and time pass."""
        for node in self.nodes:
            tenure = node.tenures.get(STORE)
            others = [other for other in self.nodes if tenure and other.address == tenure.replica]
            if not tenure or tenure.role is not Role.PRIMARY or all(self.reach(node, o) for o in others):
                node.unheard.clear()
            elif node.unheard.get(STORE, (0, 0.0))[0] != tenure.term:
                node.unheard[STORE] = tenure.term, self.world.now
        self.world.pass_time(seconds)

    def push(self, node: SimulatedNode) -> None:
        """Let a worker push to a process, and note it if that says that it is safe."""
        if node.stores.get(STORE) != 1 or node.tenures[STORE].role is not Role.PRIMARY:
            return
        self.pushes += 1
        node.pushed[STORE].add(self.pushes)
        followed = self.follow(node)
        tenure = node.tenures[STORE]
        if tenure.role is Role.PRIMARY and (followed or not tenure.needs_replica):
            shard = node.shards[STORE]
            self.acknowledged[shard].add(self.pushes)
            self.acknowledging.setdefault((shard, tenure.term), set()).add(node.incarnation)

    def settle(self) -> None:
        """Let everything be as the scheduler wants it, and every replica catch up."""
        self.cut_off.clear()
        self.cut.clear()
        for node in self.nodes:
            node.frozen = False
        for _ in range(8):
            self.pass_time(LEASE_S)
            self.world.deliver()
        for node in self.nodes:
            self.push(node)

    def check(self) -> None:
        """Whoever serves a shard has all of it that was ever acknowledged; one process acknowledges in a term."""
        assert all(len(processes) == 1 for processes in self.acknowledging.values())
        job = self.world.job("a")
        if job.attempt > 1 or not job.state.placed:
            return
        assert [store.index for store in job.stores] == list(range(SHARDS))
        for store in job.stores:
            process = self.process(store)
            if process and store.told == store.term:
                missing = self.acknowledged[store.index] - process.pushed[STORE]
                assert not missing, f"{process.name} lacks {missing}"


class Losses(RuleBasedStateMachine):
    """Anything may happen to the parameter processes, to what connects them, and to the scheduler."""

    @initialize(spare=st.integers(0, 1))
    def begin(self, spare: int) -> None:
        self.shards = Shards(spare)
        self.world = self.shards.world

    def node(self, pick: int) -> SimulatedNode:
        nodes = self.shards.nodes
        return nodes[pick % len(nodes)]

    @rule(picks=st.lists(st.integers(0, 4), min_size=1, max_size=6))
    def push(self, picks: list[int]) -> None:
        for pick in picks:
            self.shards.push(self.node(pick))

    @rule(pick=st.integers(0, 4), recovers=st.booleans())
    def restart(self, pick: int, recovers: bool) -> None:
        self.world.restart(self.node(pick).name, recovers=recovers)

    @rule(pick=st.integers(0, 4), unheard=st.booleans())
    def let_the_scheduler_lose_or_find(self, pick: int, unheard: bool) -> None:
        self.node(pick).frozen = unheard

    @rule(pick=st.integers(0, 4))
    def cut_off_or_mend(self, pick: int) -> None:
        self.shards.cut_off = set() if self.shards.cut_off else {self.node(pick).name}

    @rule(pick=st.integers(0, 4), other=st.integers(0, 4))
    def cut_two_from_each_other_or_mend(self, pick: int, other: int) -> None:
        pair = frozenset({self.node(pick).name, self.node(other).name})
        self.shards.cut = set() if self.shards.cut else {pair}

    @rule(seconds=st.floats(0.5, LEASE_S * 1.5))
    def pass_time(self, seconds: float) -> None:
        self.shards.pass_time(seconds)

    @rule()
    def deliver(self) -> None:
        self.world.deliver()

    @rule()
    def kill_the_scheduler(self) -> None:
        self.world.restart_scheduler()

    @rule()
    def settle(self) -> None:
        self.shards.settle()

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        self.shards.check()

    def teardown(self) -> None:
        """Whatever has happened: in the end each shard of an attempt that goes on is in two processes, and nothing else is left."""
        self.shards.settle()
        job = self.world.job("a")
        if job.state is JobState.RUNNING:
            assert len(job.replicas) == SHARDS
            assert all(self.shards.process(member) for member in (*job.stores, *job.replicas))
            assert sum(STORE in node.stores for node in self.shards.nodes) == 2 * SHARDS
            assert job.remnants == ()


Losses.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLosses = Losses.TestCase


@given(
    losses=st.lists(
        st.tuples(
            st.integers(0, SHARDS - 1),
            st.booleans(),
            st.sampled_from(["killed", "recovered", "unheard", "cut"]),
        ),
        max_size=5,
    ),
    spare=st.integers(0, 1),
)
@settings(max_examples=30, deadline=None)
def test_any_losses_one_after_the_other_cost_neither_the_attempt_nor_a_push(
    losses: list[tuple[int, bool, str]], spare: int
) -> None:
    shards = Shards(spare)
    shards.settle()
    for shard, of_replica, how in losses:
        job = shards.world.job("a")
        member = job.replica_of(job.stores[shard]) if of_replica else job.stores[shard]
        assert member
        node = shards.process(member)
        assert node
        if how == "unheard":
            node.frozen = True
            shards.pass_time(LEASE_S + 1)
        elif how == "cut":
            pair = job.stores[shard], job.replica_of(job.stores[shard])
            shards.cut = {frozenset(each.node.removeprefix("nodes/") for each in pair if each)}
            shards.pass_time(PATIENCE_S + 1)
            shards.world.deliver()
            shards.push(shards.world.nodes[pair[0].node.removeprefix("nodes/")])
            assert shards.pushes in shards.acknowledged[shard], "by the primary alone"
        else:
            shards.world.restart(node.name, recovers=how == "recovered")
        shards.world.deliver()
        for each in shards.nodes:
            shards.push(each)
        shards.check()
        shards.settle()
        shards.check()
    job = shards.world.job("a")
    assert (job.state, job.attempt, len(job.replicas)) == (JobState.RUNNING, 1, SHARDS)
