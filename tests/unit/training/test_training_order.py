import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace_training.core.order import DataOrder, noise_seed

sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_each_epoch_shows_every_example_exactly_once(
    examples: int, batch: int, seed: int, epoch: int
) -> None:
    order = DataOrder(examples, batch, seed)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = np.concatenate([order.batch(step) for step in steps])
    assert sorted(seen) == list(range(examples))


@given(sizes, sizes, st.integers(1, 8), st.integers(0, 20))
def test_the_ranks_shares_make_up_the_batch(examples: int, batch: int, world_size: int, step: int) -> None:
    order = DataOrder(examples, batch, seed=0)
    shares = [order.share(step, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares)) == sorted(order.batch(step))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_rank_takes_every_world_sizeth_example_beginning_with_its_number() -> None:
    order = DataOrder(10, 6, seed=7)
    np.testing.assert_array_equal(order.share(0, 1, 3), order.batch(0)[[1, 4]])


def test_the_last_batch_of_an_epoch_has_what_is_left() -> None:
    order = DataOrder(10, 4, seed=0)
    assert [len(order.batch(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    order, again = DataOrder(100, 100, seed=1), DataOrder(100, 100, seed=1)
    np.testing.assert_array_equal(order.batch(5), [*map(again.batch, (9, 5))][1])
    assert not np.array_equal(order.batch(0), order.batch(1))
    assert not np.array_equal(order.batch(0), DataOrder(100, 100, seed=2).batch(0))


def test_noise_differs_between_seeds_ranks_and_steps() -> None:
    seeds = {noise_seed(seed, rank, step) for seed in range(3) for rank in range(3) for step in range(3)}
    assert len(seeds) == 27
    assert noise_seed(1, 2, 3) == noise_seed(1, 2, 3)
