"""What a lane does when a command cannot even be made into a call."""

import queue

from headrace_scheduler.core.commands import Issued, ResolveVersion, StopTask, Target
from headrace_scheduler.core.events import CommandDone
from headrace_scheduler.core.jobs import JobKind
from headrace_scheduler.executor import Executor

BROKEN = ResolveVersion(Target(), "projects/default/jobs/a", spec=b"\xff no message")
NOBODY = StopTask(Target(), "", JobKind.TRAIN, "projects/default/tasks/a")


def test_a_command_that_crashes_is_answered_and_the_next_one_is_made() -> None:
    answers: queue.Queue[CommandDone] = queue.Queue()
    executor = Executor("127.0.0.1:1", answers.put)
    executor.run([Issued(1, BROKEN), Issued(2, NOBODY)])
    reasons = [
        (done.issued.id, done.failure and done.failure.reason)
        for done in (answers.get(timeout=30) for _ in range(2))
    ]
    executor.close()
    assert reasons == [(1, "INTERNAL"), (2, "UNAVAILABLE")]
