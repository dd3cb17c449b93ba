import math

import pytest

from headrace.errors import InvalidArgument
from headrace.training.v1.workers_pb2 import (
    Lead,
    Selection,
    SetMembersRequest,
    StartTaskRequest,
    Strategy,
    TrainingOptions,
)
from headrace.types.v1.program_pb2 import Archive, Program
from headrace_training.registration import run_key
from headrace_training.wire import check_members, check_request, read_run


def request(**changes: object) -> StartTaskRequest:
    good = StartTaskRequest(
        name="projects/default/tasks/t0",
        epoch=2,
        rank=1,
        world_size=2,
        store="projects/default/stores/s",
        shards=["127.0.0.1:8473"],
        model="projects/default/models/m",
        job="projects/default/jobs/j",
        start_step=7,
        options=TrainingOptions(
            steps=10, batch_size=4, seed=5, checkpoint_every_steps=2, evaluate_every_steps=3
        ),
    )
    for field, value in changes.items():
        if isinstance(value, list):
            good.ClearField("shards")
            good.shards.extend(value)
        elif field in ("steps", "batch_size", "threads", "device"):
            setattr(good.options, field, value)
        else:
            setattr(good, field, value)
    return good


def test_a_request_becomes_a_run() -> None:
    check_request(request())
    run = read_run(request())
    assert (run.steps, run.batch_size, run.seed, run.rank, run.world_size, run.start_step) == (
        10,
        4,
        5,
        1,
        2,
        7,
    )
    assert (run.checkpoint_every, run.evaluate_every) == (2, 3)


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("name", "tasks/t0", "name"),
        ("epoch", 0, "epoch"),
        ("world_size", 0, "world_size"),
        ("world_size", 1025, "world_size"),
        ("threads", 1025, "options.threads"),
        ("device", 9, "options.device"),  # of a newer caller
        ("batch_size", 1, "options.batch_size"),
        ("batch_size", (1 << 24) + 1, "options.batch_size"),
        ("steps", 10**12 + 1, "options.steps"),
        ("rank", 2, "rank"),
        ("store", "projects/default/models/m", "store"),
        ("store", "projects/other/stores/s", "store"),
        ("model", "projects/other/models/m", "model"),
        ("model", "m", "model"),
        ("job", "projects/other/jobs/j", "job"),
        ("shards", [], "shards"),
        ("shards", ["localhost"], "shards"),
        ("steps", 0, "options.steps"),
        ("batch_size", 0, "options.batch_size"),
        ("start_step", 11, "start_step"),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, value: object, path: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_request(request(**{field: value}))
    assert refused.value.field == path


@pytest.mark.parametrize(
    ("selection", "every", "path"),
    [
        (Selection(patience=2), 0, "options.evaluate_every_steps"),
        (Selection(minimum_improvement=-0.1), 3, "options.selection.minimum_improvement"),
        (Selection(minimum_improvement=math.nan), 3, "options.selection.minimum_improvement"),
        (Selection(direction=7), 3, "options.selection.direction"),  # type: ignore[arg-type]  # of a newer caller
    ],
)
def test_a_selection_that_could_select_nothing_is_refused(
    selection: Selection, every: int, path: str
) -> None:
    asked = request()
    asked.options.selection.CopyFrom(selection)
    asked.options.evaluate_every_steps = every
    with pytest.raises(InvalidArgument) as refused:
        check_request(asked)
    assert refused.value.field == path


def test_what_is_to_be_surpassed_is_of_the_tasks_project() -> None:
    asked = request()
    asked.best.artifact = f"projects/other/artifacts/{'0' * 64}"
    with pytest.raises(InvalidArgument, match=r"best\.artifact"):
        check_request(asked)


def test_an_archive_of_another_project_is_refused() -> None:
    asked = request()
    archive = Archive(artifact=f"projects/other/artifacts/{'0' * 64}", object="a:B")
    asked.program.CopyFrom(Program(archive=archive))
    with pytest.raises(InvalidArgument, match="not of project 'default'"):
        check_request(asked)


def test_all_attempts_of_a_run_register_under_one_key() -> None:
    first, second = request(epoch=1, name="projects/default/tasks/a"), request(epoch=2, start_step=3)
    assert run_key(first) == run_key(second)
    assert run_key(first) != run_key(request(job="projects/default/jobs/other"))


def all_reduce(**changes: object) -> StartTaskRequest:
    asked = request(store="", shards=[], strategy=Strategy.STRATEGY_ALL_REDUCE)
    asked.optimizer.sgd.learning_rate = 0.1
    asked.snapshot = f"projects/default/artifacts/{'0' * 64}"
    asked.lead.CopyFrom(Lead(address="127.0.0.1:8474", task="projects/default/tasks/t0"))
    for field, value in changes.items():
        target = asked.lead if field in ("task", "address") else asked
        setattr(target, field, value)
    return asked


def test_a_request_without_a_store_is_one_by_all_reduce() -> None:
    check_request(all_reduce())
    check_request(all_reduce(start_step=0, snapshot=""))


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("strategy", 99, "strategy"),
        ("strategy", Strategy.STRATEGY_LOCAL_SGD, "options.average_every_steps"),
        ("store", "projects/default/stores/s", "store"),
        ("snapshot", "", "snapshot"),
        ("snapshot", f"projects/other/artifacts/{'0' * 64}", "snapshot"),
        ("start_step", 0, "snapshot"),
        ("task", "", "lead.task"),
        ("task", "projects/other/tasks/t0", "lead.task"),
        ("address", "localhost", "lead.address"),
    ],
)
def test_a_wrong_field_of_an_all_reduce_request_is_refused_by_name(
    field: str, value: object, path: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_request(all_reduce(**{field: value}))
    assert refused.value.field == path


def test_an_all_reduce_request_needs_an_optimizer_and_a_known_strategy() -> None:
    asked = all_reduce()
    asked.ClearField("optimizer")
    with pytest.raises(InvalidArgument, match="optimizer is missing"):
        check_request(asked)
    with pytest.raises(InvalidArgument, match="strategy is 99"):
        check_request(request(strategy=99))


@pytest.mark.parametrize(
    ("strategy", "norm"),
    [
        (Strategy.STRATEGY_ALL_REDUCE, -1.0),
        (Strategy.STRATEGY_ALL_REDUCE, float("nan")),
        (Strategy.STRATEGY_LOCAL_SGD, 1.0),
    ],
)
def test_a_norm_that_the_strategy_cannot_clip_by_is_refused(
    strategy: Strategy.ValueType, norm: float
) -> None:
    asked = all_reduce(strategy=strategy)
    asked.options.average_every_steps = int(strategy == Strategy.STRATEGY_LOCAL_SGD)
    asked.optimizer.maximum_gradient_norm = norm
    with pytest.raises(InvalidArgument) as refused:
        check_request(asked)
    assert refused.value.field == "optimizer.maximum_gradient_norm"


def test_the_schedule_of_an_all_reduce_request_is_checked() -> None:
    asked = all_reduce()
    asked.optimizer.schedule.floor = 0.5
    with pytest.raises(InvalidArgument, match=r"floor is 0\.5; it must be 0 without a decay"):
        check_request(asked)


def test_only_all_reduce_with_an_optimizer_of_single_values_is_fully_sharded() -> None:
    asked = all_reduce()
    asked.options.fully_sharded = True
    check_request(asked)

    asked.optimizer.lamb.learning_rate = 0.1
    with pytest.raises(InvalidArgument, match="lamb needs whole tensors"):
        check_request(asked)

    elsewhere = request()
    elsewhere.options.fully_sharded = True
    with pytest.raises(InvalidArgument, match="fully_sharded is for STRATEGY_ALL_REDUCE"):
        check_request(elsewhere)


def test_an_elastic_request_names_no_lead_and_any_rank_unless_the_model_is_in_parts() -> None:
    asked = all_reduce(elastic=True, rank=7)
    asked.ClearField("lead")
    check_request(asked)
    asked.options.fully_sharded = True
    with pytest.raises(InvalidArgument, match="a part of the model is gone"):
        check_request(asked)


def members(**changes: object) -> SetMembersRequest:
    lead = Lead(address="127.0.0.1:8474", task="projects/default/tasks/t0")
    asked = SetMembersRequest(
        name="projects/default/tasks/t1", epoch=1, generation=2, members=[0, 3], lead=lead
    )
    for field, value in changes.items():
        if isinstance(value, list):
            del asked.members[:]
            asked.members.extend(value)
        else:
            setattr(asked.lead if field in ("task", "address") else asked, field, value)
    return asked


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("name", "t1", "name"),
        ("epoch", 0, "epoch"),
        ("generation", 0, "generation"),
        ("members", [], "members"),
        ("members", [3, 0], "members"),
        ("members", [3, 3], "members"),
        ("task", "", "lead.task"),
        ("task", "projects/other/tasks/t0", "lead.task"),
        ("address", "localhost", "lead.address"),
    ],
)
def test_members_that_could_not_meet_are_refused_by_name(field: str, value: object, path: str) -> None:
    check_members(members())
    with pytest.raises(InvalidArgument) as refused:
        check_members(members(**{field: value}))
    assert refused.value.field == path
