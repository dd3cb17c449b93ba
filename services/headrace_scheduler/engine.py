"""The scheduler at work: hands events to the core one at a time, writes what they change, then acts and tells the watchers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy import Engine as Database

from headrace.database import writing
from headrace.errors import AlreadyExists, FailedPrecondition, HeadraceError, NotFound, ServerDraining
from headrace_scheduler import schema
from headrace_scheduler.core import explain
from headrace_scheduler.core.deployments import Deployment
from headrace_scheduler.core.events import CommandDone, Event, JobCancelled, JobDeleted, JobSubmitted, Ticked
from headrace_scheduler.core.jobs import Job, JobState
from headrace_scheduler.core.machine import Machine, Outcome
from headrace_scheduler.core.replicas import PATIENCE_S
from headrace_scheduler.core.tables import Tables
from headrace_scheduler.executor import Executor
from headrace_scheduler.store import Store

Answer = TypeVar("Answer")
Followed = TypeVar("Followed", Job, Deployment)

TICK_S = 0.2  # the resolution of leases and pauses; an idle tick costs microseconds and writes nothing
RETRY_S = 1.0  # when the database refuses an answer from a node, for example because the disk is full
LONGEST_WAIT_S = 60.0  # of a watcher between two looks; it is woken when there is news
PRUNE_EVERY_S = 3600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Repeatable:
    """A request that may come twice: what `RememberedRequests` needs to know of it."""

    method: str
    project: str
    request_id: str
    body: bytes


class Engine:
    """Owns the machine, its lock, its database, its executor and its clock.

    Args:
        now: Tells the time, seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float,
        registry_address: str,
        now: Callable[[], float],
        replica_patience_s: float = PATIENCE_S,
    ) -> None:
        self.now = now
        self._database = database
        self._store = Store(database)
        self._machine = Machine(lease_s, now(), replica_patience_s)
        self._store.restore(self._machine, now())
        self._executor = Executor(registry_address, self._command_done)
        self._changed = threading.Condition()  # its lock is the one that guards the machine
        self._stopping = threading.Event()
        self._clock = threading.Thread(target=self._run_clock, name="scheduler-clock", daemon=True)

    def start(self) -> None:
        """Begin to act."""
        self._clock.start()

    def close(self) -> None:
        """Stop acting; the state is on the disk."""
        self._stopping.set()
        self._executor.close()
        self.wake()
        self._clock.join()

    def submit(self, event: Event) -> list[str]:
        """Let an event happen; return the tasks the reporting node may forget.

        Raises:
            HeadraceError: It is refused, or cannot be written; nothing has changed.
        """
        with self._changed, ExitStack() as undo:
            outcome = self._machine.handle(event, self.now())
            undo.callback(self._machine.undo, outcome)
            if outcome.durable:
                with writing(self._database) as connection:
                    self._store.write(connection, outcome.durable)
            undo.pop_all()
            self._publish(outcome)
            return outcome.forget

    def request(self, event: Event, repeatable: Repeatable, answer: Callable[[Tables], bytes]) -> bytes:
        """Let an event happen once for all repetitions of a request; return the first one's answer.

        Args:
            answer: Reads the answer, serialized, off the tables after the event.
        Raises:
            HeadraceError: It is refused, or cannot be written; nothing has changed.
        """
        with self._changed, ExitStack() as undo:
            outcomes: list[Outcome] = []

            def produce(connection: Connection) -> bytes:
                self._refuse_taken_name(event)
                outcome = self._machine.handle(event, self.now())
                undo.callback(self._machine.undo, outcome)
                outcomes.append(outcome)
                self._store.write(connection, outcome.durable)
                return answer(self._machine.tables)

            with writing(self._database) as connection:
                answered = schema.requests.remember(
                    connection,
                    now=self.now(),
                    method=repeatable.method,
                    project=repeatable.project,
                    request_id=repeatable.request_id,
                    body=repeatable.body,
                    produce=lambda: produce(connection),
                )
            undo.pop_all()
            for outcome in outcomes:
                self._publish(outcome)
            return answered

    def read(self, look: Callable[[Tables], Answer]) -> Answer:
        """Look at the tables between two events; the rows are immutable and may be kept."""
        with self._changed:
            return look(self._machine.tables)

    def job(self, name: str) -> Job:
        """Return a job.

        Raises:
            NotFound: There is none of this name.
        """
        with self._changed:
            job = self._machine.tables.jobs.get(name) or self._store.find_job(name)
        if job is None or job.deleted:
            raise NotFound(f"there is no {name}; list the jobs to see which there are")
        return job

    def list_jobs(self, project: str, before: int | None, limit: int) -> list[Job]:
        """List jobs of a project, newest first, as they are now."""
        with self._changed:
            live = self._machine.tables.jobs
            return [live.get(job.name, job) for job in self._store.list_jobs(project, before, limit)]

    def cancel_job(self, name: str) -> Job:
        """Ask a job to end; a final one stays as it is."""
        with self._changed:
            if not self.job(name).state.final:
                self.submit(JobCancelled(name))
            return self.job(name)

    def change_job(self, name: str, wish: Event) -> Job:
        """Let a wish change a job; FailedPrecondition if it has ended."""
        with self._changed:
            if self.job(name).state.final:
                raise FailedPrecondition(f"{name} has ended; submit it again as you wish it to be")
            self.submit(wish)
        return self.job(name)

    def delete_job(self, name: str) -> None:
        """Forget a final job."""
        with self._changed:
            if name in self._machine.tables.jobs:
                self.submit(JobDeleted(name))
            else:
                self._store.delete_job(self.job(name).name)

    def explain(self, name: str) -> tuple[str, list[explain.Condition]]:
        """Say why a job waits, in one line and by condition; there are none for a job that does not wait."""
        job = self.job(name)
        with self._changed:
            now, machine = self.now(), self._machine
            summary = explain.summary(machine.tables, job, now, machine.lease_s)
            if job.state is not JobState.QUEUED:
                return summary, []
            return summary, explain.conditions(machine.tables, job, now, machine.lease_s)

    def follow(
        self,
        find: Callable[[], Followed],
        after: int,
        *,
        finished: Callable[[Followed], bool],
        ended: Callable[[], bool],
    ) -> Iterator[Followed]:
        """Yield a row whenever its revision has grown; several changes may be folded into one.

        Args:
            find: Returns the row as it is now, or raises NotFound, which ends the stream.
            after: The revision the caller knows.
            finished: Tells whether a row will never change again.
            ended: Tells whether nobody listens any more; call `wake` when that becomes true.
        Raises:
            ServerDraining: The scheduler is about to stop.
        """
        while not ended():
            row = self._newer(find, after, finished, ended)
            if row.revision > after:
                after = row.revision
                yield row
            if finished(row):
                return

    def _newer(
        self,
        find: Callable[[], Followed],
        after: int,
        finished: Callable[[Followed], bool],
        ended: Callable[[], bool],
    ) -> Followed:
        """Wait until a row has changed or cannot change any more."""
        with self._changed:
            while True:
                row = find()
                if row.revision > after or finished(row) or ended():
                    return row
                if self._stopping.is_set():
                    raise ServerDraining(
                        "the scheduler is about to stop; watch again soon", retry_after_s=1.0
                    )
                self._changed.wait(LONGEST_WAIT_S)

    def wake(self) -> None:
        """Let every watcher look whether it should end."""
        with self._changed:
            self._changed.notify_all()

    def _refuse_taken_name(self, event: Event) -> None:
        """Settled jobs are in the database alone, where the core does not see them."""
        if isinstance(event, JobSubmitted) and self._store.find_job(event.job.name):
            raise AlreadyExists(f"{event.job.name} exists already; choose another job_id, or leave it empty")

    def _publish(self, outcome: Outcome) -> None:
        """Act, now that what was decided is on the disk."""
        self._machine.commit()
        self._executor.abandon(outcome.abandoned)
        self._executor.run(outcome.commands)
        if outcome.visible:
            self._changed.notify_all()
            _log(outcome)

    def _command_done(self, done: CommandDone) -> None:
        """Take an answer in, and do not let go of it: a command without an answer would never be repeated."""
        while not _tried(lambda: self.submit(done)) and not self._stopping.wait(RETRY_S):
            pass

    def _run_clock(self) -> None:
        pruned = self.now()
        while not self._stopping.wait(TICK_S):
            if not _tried(lambda: self.submit(Ticked())):
                self._stopping.wait(RETRY_S)
            if self.now() - pruned > PRUNE_EVERY_S:
                pruned = self.now()
                _tried(lambda: self._store.prune(self.now()))


def _tried(action: Callable[[], object]) -> bool:
    """Do what nobody waits for, and return whether it worked."""
    try:
        action()
    except HeadraceError as error:
        log.warning("background_work_refused", reason=error.reason, error=error.message)
    except Exception:
        # The top of a thread without which nothing moves: the event is undone and tried again, and everything else goes on.
        log.exception("background_work_failed")
    else:
        return True
    return False


def _log(outcome: Outcome) -> None:
    """Log what people care about: jobs and deployments that changed their state, nodes that came or went."""
    for change in outcome.visible.jobs:
        if change.new and (change.old is None or change.old.state is not change.new.state):
            log.info(
                "job_changed",
                job=change.key,
                state=change.new.state,
                attempt=change.new.attempt,
                why=change.new.message,
            )
    for deployment in outcome.visible.deployments:
        new, old = deployment.new, deployment.old
        if new and (old is None or old.state is not new.state):
            log.info("deployment_changed", deployment=new.name, state=new.state)
    for node in outcome.visible.nodes:
        if node.new and (node.old is None or node.old.lost is not node.new.lost):
            log.info("node_lost" if node.new.lost else "node_attached", node=node.key, kind=node.new.kind)
