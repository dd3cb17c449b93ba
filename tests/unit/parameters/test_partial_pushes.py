"""Pushes of a part of the values: against torch, value by value."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import FailedPrecondition, ShapeMismatch
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import Adagrad, Adam, AdamW, Lamb, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.record import Sealed, decode
from headrace_parameters.core.shard import Push, Shard

SIZE = 40
LAYOUT = FlatLayout((TensorSpec("frozen", (10,)), TensorSpec("trained", (30,))))
OPTIMIZERS = [
    Sgd(0.1, 0.9, 0.01),
    Sgd(0.1),
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
    Adagrad(0.1, initial_accumulator=0.1),
]


def shard(optimizer: Optimizer, workers: int = 1, **settings: Any) -> Shard:
    config = StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=0,
        shard_count=1,
        worker_count=workers,
        consistency=settings.pop("consistency", Consistency.BSP),
        optimizer=optimizer,
        **settings,
    )
    made = Shard(config)
    made.initialize(LAYOUT, normal(100))
    return made


def normal(seed: int, size: int = SIZE) -> Floats:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def values_of(made: Shard) -> Floats:
    assert made.published
    return made.published.values.copy()


def push(made: Shard, worker: int, step: int, gradient: Floats, *covers: range, samples: float = 1.0) -> None:
    parts = [gradient[part.start : part.stop] for part in covers]
    assert made.push(Push(worker, step, samples, np.concatenate([gradient[:0], *parts]), covers=covers))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_what_is_covered_is_updated_and_all_else_stays_with_its_state(optimizer: Optimizer) -> None:
    """As if the covered values were the whole model: not a gradient of 0, which decays moments and weights."""
    part = range(10, 40)
    made, alone = shard(optimizer), Shard(shard(optimizer).config)
    layout = FlatLayout((TensorSpec("trained", (30,)),))
    alone.initialize(layout, normal(100)[10:])
    for step in range(6):
        push(made, 0, step, normal(step), part)
        alone.push(Push(0, step, 1, normal(step)[10:].copy()))

    np.testing.assert_allclose(values_of(made)[10:], values_of(alone), rtol=1e-6, atol=1e-7)
    assert np.array_equal(values_of(made)[:10], normal(100)[:10])
    state = made.state().optimizer_state
    start = optimizer.initial_accumulator if isinstance(optimizer, Adagrad) else 0
    assert all((vector[:10] == start).all() for vector in state.values() if vector.ndim)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_covering_all_is_the_same_as_a_whole_push(optimizer: Optimizer) -> None:
    made, whole = shard(optimizer), shard(optimizer)
    for step in range(4):
        push(made, 0, step, normal(step), range(7), range(7, 40))
        whole.push(Push(0, step, 1, normal(step)))

    np.testing.assert_allclose(values_of(made), values_of(whole), rtol=1e-6, atol=1e-7)


def test_a_value_left_out_keeps_its_moments_for_later() -> None:
    made, values, momentum = shard(Sgd(0.1, 0.9)), normal(100).astype(np.float64), np.zeros(SIZE)
    for step in range(8):
        part = range(25) if step % 2 else range(15, 40)
        push(made, 0, step, normal(step), part)
        place = slice(part.start, part.stop)
        momentum[place] = 0.9 * momentum[place] + normal(step)[place]
        values[place] -= 0.1 * momentum[place]

    np.testing.assert_allclose(values_of(made), values, rtol=1e-5, atol=1e-6)


PARTS = st.lists(st.integers(0, SIZE), min_size=2, max_size=6).map(
    lambda edges: tuple(
        range(start, stop)
        for start, stop in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)
        if start < stop
    )
)


@given(covers=st.lists(st.none() | PARTS, min_size=3, max_size=3), order=st.permutations(range(3)))
def test_each_value_has_the_mean_of_who_covers_it_in_whatever_order_they_come(
    covers: list[tuple[range, ...] | None], order: list[int]
) -> None:
    samples = [1.0, 3.0, 0.0]
    made = shard(Sgd(1.0), workers=3)
    for worker in order:
        parts = covers[worker]
        gradient = normal(worker)
        chosen = (
            gradient
            if parts is None
            else np.concatenate([gradient[:0], *(gradient[p.start : p.stop] for p in parts)])
        )
        assert made.push(Push(worker, 0, samples[worker], chosen, covers=parts))

    total, weight = np.zeros(SIZE), np.zeros(SIZE)
    for worker, parts in enumerate(covers):
        for part in [range(SIZE)] if parts is None else parts:
            place = slice(part.start, part.stop)
            total[place] += samples[worker] * normal(worker)[place].astype(np.float64)
            weight[place] += samples[worker]
    expected = normal(100) - np.divide(total, weight, out=np.zeros(SIZE), where=weight > 0)
    np.testing.assert_allclose(values_of(made), expected, rtol=1e-5, atol=1e-6)
    assert made.published
    assert made.published.version == 1


def test_a_part_is_clipped_by_its_own_norm() -> None:
    made = shard(Sgd(1.0), maximum_gradient_norm=0.5)

    push(made, 0, 0, normal(0), range(10, 40))

    norm = np.linalg.norm(normal(0)[10:])
    expected = normal(100)[10:] - normal(0)[10:] * 0.5 / (norm + 1e-6)
    np.testing.assert_allclose(values_of(made)[10:], expected, rtol=1e-5, atol=1e-6)


def test_the_same_step_is_taken_once_whatever_it_covers() -> None:
    made = shard(Sgd(1.0), workers=2)
    push(made, 0, 0, normal(0), range(5))

    assert not made.push(Push(0, 0, 1, normal(1, 5), covers=(range(5, 10),)))
    assert not made.push(Push(0, 0, 1, normal(1)))


def test_a_worker_may_cover_nothing_and_still_complete_the_step() -> None:
    made = shard(Sgd(1.0), workers=2)
    push(made, 0, 0, normal(0))
    push(made, 1, 0, normal(1), range(5))

    np.testing.assert_allclose(values_of(made)[:5], normal(100)[:5] - normal(1)[:5], rtol=1e-6)
    assert np.array_equal(values_of(made)[5:], normal(100)[5:])


def test_a_part_is_applied_at_once_without_bsp() -> None:
    made = shard(Sgd(1.0), workers=2, consistency=Consistency.ASYNC)

    push(made, 1, 7, normal(0), range(5))

    assert np.array_equal(values_of(made)[5:], normal(100)[5:])
    assert made.published
    assert made.published.version == 1


def test_a_part_with_too_few_values_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="the gradient has 4 values; the push covers here 5"):
        shard(Sgd(1.0)).push(Push(0, 0, 1, normal(0, 4), covers=(range(5),)))


def test_lamb_takes_no_parts() -> None:
    made = shard(Lamb(0.1))

    with pytest.raises(FailedPrecondition, match="a push covers all values; push the others with zeros"):
        made.push(Push(0, 0, 1, normal(0, 5), covers=(range(5),)))

    assert np.array_equal(values_of(made), normal(100))


@pytest.mark.parametrize("covers", [(), (range(3),), (range(2, 5), range(7, 9))], ids=str)
def test_a_log_remembers_what_a_push_covers(covers: tuple[range, ...]) -> None:
    gradient = normal(0, sum(map(len, covers)))
    record = b"".join(Sealed.of(Push(3, 9, 2.5, gradient, covers=covers)).encode(17, 4))

    entry = decode(memoryview(bytearray(record + b"more")))

    assert (entry.sequence, entry.epoch, entry.size_bytes) == (17, 4, len(record))
    found = entry.change
    assert isinstance(found, Push)
    assert (found.worker, found.step, found.samples, found.covers) == (3, 9, 2.5, covers)
    assert np.array_equal(found.gradient, gradient)


def test_a_restored_shard_goes_on_with_parts_as_the_saved_one_would() -> None:
    saved = shard(Adam(0.01))
    push(saved, 0, 0, normal(0), range(5))
    restored = Shard(saved.config)
    restored.restore(saved.state())
    for made in (saved, restored):
        push(made, 0, 1, normal(1), range(3, 20))

    assert np.array_equal(values_of(saved), values_of(restored))
    assert all(
        torch.equal(it, saved.state().optimizer_state[name])
        for name, it in restored.state().optimizer_state.items()
    )
