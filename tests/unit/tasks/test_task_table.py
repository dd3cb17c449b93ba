import pytest

from headrace.errors import AlreadyExists, NotFound, ResourceExhausted, StaleEpoch
from headrace.tasks.table import TaskTable
from headrace.types.v1.task_pb2 import Checkpoint, Failure, Progress, Task, TaskResult, TaskState

NAME = "projects/default/tasks/train-0"
CRASH = Failure(reason="TASK_CRASHED", message="killed by SIGKILL")


@pytest.fixture
def table() -> TaskTable:
    return TaskTable(slots=1, kept_final=2)


def start(table: TaskTable, name: str = NAME, *, epoch: int = 1, body: bytes = b"body") -> Task:
    return table.start(name, epoch, body, now=1000.5)[0]


def test_a_started_task_is_starting_and_knows_when_it_was_created(table: TaskTable) -> None:
    task = start(table)
    assert task.state == TaskState.TASK_STATE_STARTING
    assert task.create_time.ToMilliseconds() == 1_000_500
    assert task.epoch == 1


def test_a_repeated_start_with_the_same_body_returns_the_task_and_starts_nothing(table: TaskTable) -> None:
    start(table)
    table.apply(NAME, Task(progress=Progress(step=3)))
    task, is_new = table.start(NAME, 1, b"body", now=2000)
    assert not is_new
    assert task.progress.step == 3


def test_another_body_under_the_same_name_is_refused(table: TaskTable) -> None:
    start(table)
    with pytest.raises(AlreadyExists, match="another request"):
        start(table, body=b"other")


def test_a_start_beyond_the_slots_is_refused_and_names_what_runs(table: TaskTable) -> None:
    start(table)
    with pytest.raises(ResourceExhausted, match=NAME):
        start(table, "projects/default/tasks/other")


def test_a_final_task_frees_its_slot(table: TaskTable) -> None:
    start(table)
    table.exited(NAME, CRASH, now=1001)
    assert start(table, "projects/default/tasks/other").state == TaskState.TASK_STATE_STARTING


def test_a_final_task_is_returned_to_a_repeat_and_replaced_by_a_later_epoch(table: TaskTable) -> None:
    start(table)
    table.exited(NAME, CRASH, now=1001)
    assert start(table).state == TaskState.TASK_STATE_FAILED
    again = start(table, epoch=2, body=b"second attempt")
    assert (again.state, again.epoch) == (TaskState.TASK_STATE_STARTING, 2)
    assert not again.HasField("failure")


def test_a_later_epoch_does_not_replace_a_task_that_runs(table: TaskTable) -> None:
    start(table)
    with pytest.raises(AlreadyExists, match="stop it"):
        start(table, epoch=2, body=b"second attempt")


def test_an_earlier_epoch_is_stale(table: TaskTable) -> None:
    start(table, epoch=2)
    with pytest.raises(StaleEpoch):
        start(table, epoch=1, body=b"first attempt")


def test_the_first_event_makes_a_task_running(table: TaskTable) -> None:
    start(table)
    table.apply(NAME, Task())
    assert table.get(NAME).state == TaskState.TASK_STATE_RUNNING


def test_every_change_raises_the_revision_even_across_attempts(table: TaskTable) -> None:
    revisions = [start(table).revision]
    table.apply(NAME, Task(checkpoint=Checkpoint(step=5, snapshots=["a"])))
    revisions.append(table.get(NAME).revision)
    table.exited(NAME, CRASH, now=1001)
    revisions.append(table.get(NAME).revision)
    revisions.append(start(table, epoch=2, body=b"second attempt").revision)
    assert revisions == sorted(set(revisions))


def test_a_task_with_a_result_succeeds_only_when_its_process_is_gone(table: TaskTable) -> None:
    start(table)
    table.apply(NAME, Task(result=TaskResult(version="v", metrics={"accuracy": 0.5})))
    assert table.get(NAME).state == TaskState.TASK_STATE_RUNNING
    table.exited(NAME, CRASH, now=1002)
    task = table.get(NAME)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED
    assert task.result.version == "v"
    assert task.end_time.seconds == 1002


def test_a_reported_failure_wins_over_the_way_the_process_ended(table: TaskTable) -> None:
    start(table)
    table.apply(NAME, Task(failure=Failure(reason="PROGRAM_FAILED", message="ValueError: no")))
    table.exited(NAME, CRASH, now=1002)
    assert table.get(NAME).failure.reason == "PROGRAM_FAILED"


def test_a_process_that_leaves_without_a_word_has_crashed(table: TaskTable) -> None:
    start(table)
    table.exited(NAME, CRASH, now=1002)
    assert table.get(NAME).failure == CRASH


def test_a_stopped_task_is_stopping_until_its_process_is_gone(table: TaskTable) -> None:
    start(table)
    assert table.stop(NAME).state == TaskState.TASK_STATE_STOPPING
    table.apply(NAME, Task(failure=Failure(reason="CANCELLED")))
    assert table.get(NAME).state == TaskState.TASK_STATE_STOPPING
    table.exited(NAME, CRASH, now=1002)
    assert table.get(NAME).state == TaskState.TASK_STATE_STOPPED


def test_a_task_that_finished_before_it_heard_stop_has_succeeded(table: TaskTable) -> None:
    start(table)
    table.stop(NAME)
    table.apply(NAME, Task(result=TaskResult()))
    table.exited(NAME, CRASH, now=1002)
    assert table.get(NAME).state == TaskState.TASK_STATE_SUCCEEDED


def test_nothing_changes_a_final_task(table: TaskTable) -> None:
    start(table)
    table.exited(NAME, CRASH, now=1001)
    before = table.get(NAME)
    table.apply(NAME, Task(progress=Progress(step=9)))
    table.exited(NAME, Failure(reason="OTHER"), now=1003)
    assert table.stop(NAME) == before


def test_the_oldest_final_tasks_are_dropped(table: TaskTable) -> None:
    names = [f"projects/default/tasks/t{number}" for number in range(3)]
    for name in names:
        start(table, name)
        table.exited(name, CRASH, now=1001)
    assert [task.name for task in table.tasks()] == names[1:]


def test_only_final_tasks_are_forgotten(table: TaskTable) -> None:
    start(table)
    table.forget([NAME, "projects/default/tasks/never-there"])
    assert table.running() == [NAME]
    table.exited(NAME, CRASH, now=1001)
    table.forget([NAME])
    with pytest.raises(NotFound):
        table.get(NAME)


def test_a_returned_task_is_a_copy(table: TaskTable) -> None:
    start(table).state = TaskState.TASK_STATE_FAILED
    assert table.get(NAME).state == TaskState.TASK_STATE_STARTING


def test_where_the_ranks_meet_is_kept(table: TaskTable) -> None:
    start(table)
    table.apply(NAME, Task(rendezvous="127.0.0.1:4711"))
    table.apply(NAME, Task(progress=Progress(step=1)))
    assert table.get(NAME).rendezvous == "127.0.0.1:4711"
