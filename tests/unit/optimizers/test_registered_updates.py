"""Updates of users' own: what is allowed, what they must be, and that a step of theirs happens whole or not at all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.errors import HeadraceError, InvalidArgument, NonFiniteValues, ProgramFailed, ProgramNotAllowed
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.config import Registered
from headrace_optimizers.loading import checker, loader, refuse
from headrace_optimizers.schedule import CONSTANT
from headrace_optimizers.wire import optimizer_from_proto, optimizer_to_proto
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState

RULES = "tests.unit.optimizers.rules"
SIZE = 100
LAYOUT = FlatLayout((TensorSpec("w", (SIZE,)),))
LOAD = loader(["tests.unit", "headrace_examples"])


def registered(name: str, rate: float = 0.1, **config: Any) -> Registered:
    message = stores_pb2.Optimizer()
    message.registered.learning_rate, message.registered.update = rate, name
    message.registered.config.update(config)
    made = optimizer_from_proto(message, LOAD)
    assert isinstance(made, Registered)
    return made


def shards(optimizer: Registered, count: int = 1) -> list[Shard]:
    config = StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=0,
        shard_count=count,
        worker_count=1,
        consistency=Consistency.BSP,
        optimizer=optimizer,
    )
    made = [Shard(replace(config, shard_index=index)) for index in range(count)]
    for shard, part in zip(made, np.array_split(normal(100), count), strict=True):
        shard.initialize(LAYOUT, part.copy())
    return made


def normal(seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def train(made: list[Shard], steps: range) -> Floats:
    for step in steps:
        for shard, part in zip(made, np.array_split(normal(step), len(made)), strict=True):
            assert shard.push(Push(0, step, 1, part.copy()))
    return values_of(made)


def values_of(made: list[Shard]) -> Floats:
    return np.concatenate([shard.published.values for shard in made if shard.published])


@pytest.mark.parametrize("count", [1, 4])
def test_lion_does_what_its_paper_says_on_any_number_of_shards(count: int) -> None:
    values = train(shards(registered("headrace_examples.updates:Lion", weight_decay=0.1), count), range(10))

    x, momentum = normal(100).astype(np.float64), np.zeros(SIZE)
    for step in range(10):
        g = normal(step).astype(np.float64)
        x = x - 0.1 * (np.sign(0.9 * momentum + 0.1 * g) + 0.1 * x)
        momentum = 0.99 * momentum + 0.01 * g
    np.testing.assert_allclose(values, x, rtol=1e-5, atol=1e-6)


def test_state_is_saved_and_restored() -> None:
    (saved,) = shards(registered("headrace_examples.updates:Lion"))
    train([saved], range(3))
    tensors, metadata = saved.state().encode()
    restored = Shard(saved.config)

    restored.restore(ShardState.decode({name: it.clone() for name, it in tensors.items()}, metadata))

    assert np.array_equal(train([saved], range(3, 6)), train([restored], range(3, 6)))
    assert saved.size_bytes == 8 * SIZE
    with pytest.raises(InvalidArgument, match="optimizer registered headrace_examples"):
        Shard(shards(registered(f"{RULES}:Sgd"))[0].config).restore(saved.state())


def test_a_part_can_be_pushed() -> None:
    (shard,) = shards(registered(f"{RULES}:Sgd", 1.0))
    assert shard.push(Push(0, 0, 1, normal(0)[:10].copy(), covers=(range(10),)))

    np.testing.assert_allclose(values_of([shard])[:10], normal(100)[:10] - normal(0)[:10], rtol=1e-6)
    assert shard.state().optimizer_state["seen"].tolist() == [2.0] * 10 + [1.0] * 90


@pytest.mark.parametrize(
    ("name", "config", "error", "says"),
    [
        (
            f"{RULES}:Sgd",
            {"fail_at": 4},
            ProgramFailed,
            "raised RuntimeError: no step 4; nothing was applied",
        ),
        (f"{RULES}:OverflowingLate", {}, NonFiniteValues, "made a NaN or an infinity; nothing was applied"),
    ],
)
def test_a_step_that_fails_half_way_changes_nothing(
    name: str, config: dict[str, Any], error: type[HeadraceError], says: str
) -> None:
    (shard,) = shards(registered(name, **config))
    before = train([shard], range(3)).copy()
    state = shard.state()

    for _ in range(2):
        with pytest.raises(error, match=says):
            shard.push(Push(0, 3, 1, normal(3)))

    assert np.array_equal(values_of([shard]), before)
    after = shard.state()
    assert (after.version, after.last_steps) == (state.version, state.last_steps)
    assert all(torch.equal(it, state.optimizer_state[key]) for key, it in after.optimizer_state.items())


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        (f"{RULES}:Nothing", {}, "has no 'Nothing'"),
        (f"{RULES}:Sgd", {"speed": 1}, "the config does not fit"),
        (f"{RULES}:Overflowing", {}, "makes a NaN or an infinity of ordinary gradients"),
        (f"{RULES}:Raising", {}, "raises KeyError: 'momentum'"),
        (f"{RULES}:Random", {}, "make it deterministic"),
        (f"{RULES}:Neighbourly", {}, "update each value by its own gradient and state"),
        (f"{RULES}:Stateless", {}, "it must name at most 8 vectors"),
        (f"{RULES}:Applied", {}, "has no apply"),
        (f"{RULES}:broken_constructor", {}, "cannot be made: OSError: no such file"),
        (RULES, {}, "not of the form module:attribute"),
        ("tests.unit.none:Rule", {}, "there is no module"),
    ],
)
def test_what_breaks_the_contract_is_refused_before_there_is_a_store(
    name: str, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says) as refused:
        registered(name, **config)

    assert refused.value.field == "optimizer.registered.update"


def test_an_instance_and_its_settings_are_taken_as_they_are() -> None:
    made = registered(f"{RULES}:Sgd", 0.5, scale=3, fail_at=0)

    assert made == registered(f"{RULES}:Sgd", 0.5, fail_at=0, scale=3)
    assert made != registered(f"{RULES}:Sgd", 0.5, scale=2)
    assert optimizer_from_proto(optimizer_to_proto(made, CONSTANT, 0), LOAD) == made
    assert registered(f"{RULES}:INSTANCE").config == "{}"
    with pytest.raises(InvalidArgument, match="it must be above 0"):
        registered(f"{RULES}:Sgd", 0)


@pytest.mark.parametrize("load", [refuse, loader(["tests.units"]), checker(["tests.unit.other"])])
def test_what_the_operator_does_not_allow_is_not_imported(load: Any) -> None:
    with pytest.raises(ProgramNotAllowed, match="ask the operator to add it to ALLOWED_UPDATES"):
        load("tests.unit.never_there:Rule", {}, 0.1)


def test_a_process_that_only_checks_loads_nothing() -> None:
    assert not checker(["tests"])("tests.unit.never_there:Rule", {}, 0.1).state
