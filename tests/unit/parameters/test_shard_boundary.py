"""One point of a run for all shards: what must still come, and what must wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.parameters.v1 import stores_pb2
from headrace_parameters.core.boundary import Boundary, Standing, complete_gradients
from headrace_parameters.core.config import Consistency
from headrace_parameters.planning import joining_request

ALONE = [Consistency.SSP, Consistency.ASYNC]
WORKERS = 3
STANDINGS = st.lists(
    st.builds(
        Standing,
        version=st.integers(0, 5),
        clocks=st.fixed_dictionaries({worker: st.integers(0, 5) for worker in range(WORKERS)}),
        pending=st.frozensets(st.integers(0, WORKERS - 1)),
    ),
    min_size=1,
    max_size=4,
)


@given(STANDINGS)
def test_synchronous_shards_take_the_steps_that_another_has_applied_and_no_other(
    standings: list[Standing],
) -> None:
    boundary = Boundary.of(standings)

    furthest = max(standing.version for standing in standings)
    admitted = [step for step in range(7) if boundary.admits(Consistency.BSP, 0, step)]

    assert admitted == list(range(furthest))
    assert boundary.is_reached(Consistency.BSP, furthest, {})
    assert not boundary.is_reached(Consistency.BSP, furthest - 1, dict.fromkeys(range(WORKERS), 9))


@pytest.mark.parametrize("consistency", ALONE)
@given(standings=STANDINGS)
def test_others_take_what_any_shard_has_of_each_worker(
    consistency: Consistency, standings: list[Standing]
) -> None:
    boundary = Boundary.of(standings)

    for worker in range(WORKERS):
        clock = max(standing.clocks[worker] for standing in standings)
        assert [step for step in range(7) if boundary.admits(consistency, worker, step)] == list(range(clock))
    assert boundary.is_reached(consistency, 0, boundary.clocks)


def test_a_gradient_is_kept_if_every_shard_has_it() -> None:
    standings = [Standing(1, {}, frozenset(pending)) for pending in ({0, 1}, {1, 2}, {0, 1, 2})]

    assert complete_gradients(standings) == {1}


def test_a_shard_that_joins_gets_every_setting() -> None:
    """A setting that a store does not tell would be lost on the shards that join later."""
    asked = set(stores_pb2.CreateStoreRequest.DESCRIPTOR.fields_by_name)
    told = set(stores_pb2.Store.DESCRIPTOR.fields_by_name)

    assert asked - told == {"snapshot", "joins"}


def test_a_shard_that_joins_is_asked_for_with_the_settings_of_the_store() -> None:
    store = stores_pb2.Store(
        name="projects/default/stores/run",
        epoch=3,
        shard_count=2,
        worker_count=4,
        consistency=stores_pb2.CONSISTENCY_SSP,
        staleness_bound=2,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=0.5)),
        version=17,
    )

    assert joining_request(store, shard=5, count=3) == stores_pb2.CreateStoreRequest(
        name="projects/default/stores/run",
        epoch=3,
        shard_index=5,
        shard_count=3,
        worker_count=4,
        consistency=stores_pb2.CONSISTENCY_SSP,
        staleness_bound=2,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=0.5)),
        joins=True,
    )
