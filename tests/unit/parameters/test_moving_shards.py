"""Shards whose values move: what must still come, what is kept, and how a shard that joins is asked for."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.parameters.cut import behind, latest
from headrace.parameters.v1 import stores_pb2
from headrace_parameters.core.standing import Pending, Standing, complete_gradients
from headrace_parameters.planning import joining_request

CUTS = st.lists(
    st.fixed_dictionaries({worker: st.integers(0, 5) for worker in range(3)}), min_size=1, max_size=4
)


@given(CUTS)
def test_shards_meet_at_the_first_cut_that_none_is_beyond(cuts: list[dict[int, int]]) -> None:
    met = latest(cuts)

    assert all(met[worker] == max(cut[worker] for cut in cuts) for worker in range(3))
    assert not behind(met, met)
    for cut in cuts:
        assert not behind(met, cut)
        assert behind(cut, met) == [worker for worker in range(3) if cut[worker] < met[worker]]


def test_a_gradient_is_kept_if_every_shard_has_it() -> None:
    standings = [Standing({}, Pending(frozenset(pending))) for pending in ({0, 1}, {1, 2}, {0, 1, 2})]

    assert complete_gradients(standings).dense == {1}


def test_a_shard_that_joins_gets_every_setting() -> None:
    """A setting that a store does not tell would be lost on the shards that join later."""
    asked = set(stores_pb2.CreateStoreRequest.DESCRIPTOR.fields_by_name)
    told = set(stores_pb2.Store.DESCRIPTOR.fields_by_name)

    assert asked - told == {"snapshots", "joins"}


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
