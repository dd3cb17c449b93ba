"""The scheduler as one state machine: an event comes in, decisions come out.

    outcome = machine.handle(event, now)     # changes the tables, or raises a HeadraceError and leaves them alone
    store.write(outcome.changes)             # before anyone is answered; if that fails: machine.undo()
    machine.commit()
    executor.run(outcome.commands)

What the world must do is read off the state after every event (`work`, `serving`), less what it has been told already.
So nothing is forgotten: after a restart, the same rows ask for the same commands.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from headrace_scheduler.core import cluster, replicas, requests, resharding, serving, work
from headrace_scheduler.core.commands import Command, Issued, LoadModel, StopTask, Target, UnloadModel
from headrace_scheduler.core.deployments import Deployment, Hosted
from headrace_scheduler.core.elastic import grown
from headrace_scheduler.core.events import (
    CommandDone,
    Event,
    NodeAttached,
    NodeDetached,
    NodeReported,
    Ticked,
)
from headrace_scheduler.core.jobs import Job, JobKind, job_of_task
from headrace_scheduler.core.lifecycle import placed
from headrace_scheduler.core.nodes import DEFAULT_POOL, Node, NodeKind, Pool
from headrace_scheduler.core.placement import growing_jobs, joining_shards, next_jobs, replicas_to_add
from headrace_scheduler.core.tables import Change, Tables

PAUSE_S = 1.0  # between two tries of a command that failed; the executor has repeated it already
# Revisions given out since the last write to the database are forgotten in a restart; this many are skipped instead, more
# than any process lives to give out.
REVISION_GAP = 1 << 32


@dataclass(frozen=True)
class Changes:
    """Rows that differ after an event."""

    pools: list[Change[Pool]]
    nodes: list[Change[Node]]
    jobs: list[Change[Job]]
    deployments: list[Change[Deployment]]
    hosted: list[Change[Hosted]]

    def __bool__(self) -> bool:
        return any((self.pools, self.nodes, self.jobs, self.deployments, self.hosted))


@dataclass
class Outcome:
    """What follows from one event."""

    durable: Changes  # to be written before anything else
    visible: Changes  # what watchers see
    commands: list[Issued] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)  # nodes whose outstanding commands are void
    forget: list[str] = field(default_factory=list)  # final tasks of the reporting node that are recorded


class Machine:
    """Handles events one at a time; the caller holds a lock and brings the time, in seconds since the epoch."""

    def __init__(self, lease_s: float, now: float, replica_patience_s: float = replicas.PATIENCE_S) -> None:
        self.tables = Tables()
        self.tables.pools.put(DEFAULT_POOL, Pool(DEFAULT_POOL, "Everything that names no other pool.", now))
        self.lease_s = lease_s
        self._replica_patience_s = replica_patience_s
        self._ids = count(1)
        self._under_way: dict[Command, int] = {}
        self._paused: dict[Command, float] = {}
        self._sequence = 0
        self._ticked = now

    def restore(
        self,
        pools: list[Pool],
        nodes: list[Node],
        jobs: list[Job],
        deployments: list[Deployment],
        hosted: list[Hosted],
        sequence: int,
        now: float,
    ) -> None:
        """Take over the rows of a former life. Its nodes have one lease to come back.

        Args:
            sequence: The greatest ever given to a job or deployment.
        """
        tables = self.tables
        for pool in pools:
            tables.pools.put(pool.name, pool)
        for node in nodes:
            tables.nodes.put(node.name, replace(node, heard=now))
        for job in jobs:
            tables.jobs.put(job.name, replace(job, revision=job.revision + REVISION_GAP))
        for deployment in deployments:
            skipped = replace(deployment, revision=deployment.revision + REVISION_GAP)
            tables.deployments.put(deployment.name, skipped)
        for host in hosted:
            tables.hosted.put(host.key, host)
        tables.begin()
        self._sequence = sequence

    def handle(self, event: Event, now: float) -> Outcome:
        """Decide what follows from an event.

        Raises:
            HeadraceError: The event is refused; nothing has changed.
        """
        self.tables.begin()
        try:
            forget = self._apply(event, now)
            self._settle(now)
        except BaseException:  # refused or worse: half an event must not stay
            self.tables.undo()
            raise
        abandoned = cluster.abandoned(self.tables)
        self._void(abandoned)
        return Outcome(
            durable=Changes(*(table.durable_changes() for table in self.tables.all)),  # type: ignore[arg-type]  # a tuple of five types
            visible=Changes(*(table.changes() for table in self.tables.all)),  # type: ignore[arg-type]  # likewise
            commands=self._issue(now),
            abandoned=abandoned,
            forget=forget,
        )

    def commit(self) -> None:
        """Agree to the last event: what it decided is written. Settled jobs are not kept in memory."""
        self.tables.commit()

    def undo(self, outcome: Outcome) -> None:
        """Take the last event back: what it decided could not be written."""
        self.tables.undo()
        for issued in outcome.commands:
            self._under_way.pop(issued.command, None)

    def _apply(self, event: Event, now: float) -> list[str]:
        if isinstance(event, NodeReported):
            return cluster.reported(self.tables, event, now, self.lease_s, self._replica_patience_s)
        if isinstance(event, NodeAttached):
            cluster.attached(self.tables, event.node, now)
        elif isinstance(event, NodeDetached):
            cluster.detached(self.tables, event, now)
        elif isinstance(event, CommandDone):
            self._answered(event, now)
        elif isinstance(event, Ticked):
            self._tick(now)
        else:
            self._sequence = requests.accept(self.tables, event, self._sequence, now)
        return []

    def _tick(self, now: float) -> None:
        slept_s = now - self._ticked
        self._ticked = now
        if slept_s > self.lease_s / 3:
            # We were stopped, or the clock was set: nobody could report to us, so nobody's silence counts.
            cluster.grant(self.tables, slept_s)
        cluster.expire(self.tables, now, self.lease_s)
        self._paused = {command: until for command, until in self._paused.items() if until > now}

    def _answered(self, done: CommandDone, now: float) -> None:
        command = done.issued.command
        if self._under_way.get(command) != done.issued.id:
            return  # void since: its node was lost meanwhile
        del self._under_way[command]
        if done.failure:
            self._paused[command] = now + PAUSE_S
        elif isinstance(command, StopTask):
            self._paused[command] = now + self.lease_s  # time to end and to be reported so
        if isinstance(command, LoadModel | UnloadModel):
            serving.answered(self.tables, command, done.failure, now)
        elif command.job in self.tables.jobs:
            job = self.tables.jobs[command.job]
            self.tables.put_job(work.answered(job, command, done.failure, done.version, now))

    def _void(self, nodes: list[str]) -> None:
        """Forget what was asked of processes that are gone."""
        for commands in (self._under_way, self._paused):
            for command in [command for command in commands if command.target.node in nodes]:
                commands.pop(command)

    def _settle(self, now: float) -> None:
        """Give work to whoever can take it."""
        for job, replica in replicas_to_add(self.tables, now, self.lease_s):
            self.tables.put_job(replicas.joined(job, replica))
        for job, members in next_jobs(self.tables, now, self.lease_s):
            self.tables.put_job(placed(job, members, now))
        for job, member in growing_jobs(self.tables, now, self.lease_s):
            self.tables.put_job(grown(job, member))
        for job in [job for job in self.tables.jobs.values() if resharding.is_due(job, now)]:
            self.tables.put_job(resharding.planned(job, joining_shards(self.tables, job, now, self.lease_s)))
        serving.reconcile(self.tables, now, self.lease_s)
        for job in [job for job in self.tables.jobs.values() if job.deleted and job.settled]:
            self.tables.jobs.remove(job.name)

    def _issue(self, now: float) -> list[Issued]:
        """Number the commands that are needed and neither under way nor tried a moment ago."""
        issued = []
        for command in self._needed():
            if command not in self._under_way and self._paused.get(command, 0.0) <= now:
                self._under_way[command] = next(self._ids)
                issued.append(Issued(self._under_way[command], command))
        return issued

    def _needed(self) -> Iterator[Command]:
        for job in self.tables.jobs.values():
            if job.members or job.remnants:  # most jobs of a long queue have nothing anywhere
                yield from work.commands_for(self.tables, job)
        for host in self.tables.hosted.values():
            yield from serving.commands_for(self.tables, host)
        for node in self.tables.nodes.values():
            yield from self._strays(node)

    def _strays(self, node: Node) -> Iterator[Command]:
        """Stop what carries the name of a job's task but belongs to no attempt that goes on."""
        if node.lost:
            return
        for task in node.active_tasks:
            owner = job_of_task(task)
            job = self.tables.jobs.get(owner)
            known = job and any(
                member.resource == task and member.node == node.name
                for member in (*job.members, *job.remnants)
            )
            if owner and not known:
                kind = JobKind.TRAIN if node.kind is NodeKind.TRAINING else JobKind.OPTIMIZE
                yield StopTask(Target(node.name, node.address), "", kind, task)
