"""Ranks whose data are streamed: the same training as with any other data, whoever comes and goes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from headrace.data import Dataset, parquet
from headrace.errors import Cancelled, DataUnreadable
from headrace.program import Examples, Split
from headrace.testing import FakeClock
from headrace_training.core.feed import Feed, feed
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.synchronizer import Synchronizer
from tests.unit.training.lockstep_store import LockstepStore
from tests.unit.training.small_program import Small
from tests.unit.training.test_training_ranks import RUN, Heard, adamw, over_group, over_store, sgd

STEPS = 30
BLOCK = 7


class Streamed(Small):
    """The same program, from Parquet files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for split in ("train", "validation", "test"):
            arrays = super().data(split)
            table = pa.table({"row": arrays.inputs["input"].tolist(), "sign": arrays.targets})
            pq.write_table(table, folder / f"{split}.parquet", row_group_size=BLOCK)

    def data(self, split: Split) -> Dataset:  # type: ignore[override]  # where Small says that it returns arrays
        described = parquet(self._folder / f"{split}.parquet", inputs={"input": "row"}, target="sign")
        return described.shuffled(3 * BLOCK * 4 * 8)


@pytest.fixture
def streamed(tmp_path: Path) -> Streamed:
    return Streamed(tmp_path)


def train_all(program: Small, synchronizers: Sequence[Synchronizer]) -> list[Rank]:
    ranks = [
        Rank(
            program,
            replace(RUN, steps=STEPS, rank=rank, world_size=len(synchronizers)),
            each,
            Heard(),
            FakeClock(),
        )
        for rank, each in enumerate(synchronizers)
    ]
    with ThreadPoolExecutor(len(ranks)) as pool:
        for done in [pool.submit(rank.train) for rank in ranks]:
            done.result(timeout=60)
    return ranks


@pytest.mark.parametrize("strategy", [over_store, over_group])
@pytest.mark.parametrize("workers", [2, 3])
def test_ranks_together_equal_one_on_the_same_stream(
    strategy: type, workers: int, streamed: Streamed
) -> None:
    (alone,) = train_all(streamed, over_store(adamw, 1))
    for rank in train_all(streamed, strategy(adamw, workers)):
        np.testing.assert_allclose(rank.model.values, alone.model.values, rtol=0, atol=1e-5)


def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(streamed: Streamed) -> None:
    """The position in the data is the step: nothing else is kept."""
    store, run = LockstepStore(1, sgd), replace(RUN, steps=STEPS)
    with pytest.raises(Cancelled):
        Rank(streamed, run, ParameterServer(store), Heard(stop_after=13), FakeClock()).train()
    resumed = Rank(streamed, replace(run, start_step=13), ParameterServer(store), Heard(), FakeClock())
    resumed.train()
    (whole,) = train_all(streamed, over_store(sgd, 1))
    np.testing.assert_array_equal(resumed.model.values, whole.model.values)


def test_gradients_accumulated_over_micro_batches_change_nothing(streamed: Streamed) -> None:
    run = replace(RUN, steps=STEPS)
    ranks = [
        Rank(
            streamed,
            replace(run, accumulate=parts),
            ParameterServer(LockstepStore(1, sgd)),
            Heard(),
            FakeClock(),
        )
        for parts in (1, 5)
    ]
    for rank in ranks:
        rank.train()
    np.testing.assert_allclose(ranks[0].model.values, ranks[1].model.values, rtol=0, atol=1e-6)


def test_a_whole_split_is_measured_as_if_it_were_in_memory(streamed: Streamed) -> None:
    rank = Rank(streamed, replace(RUN, steps=1), ParameterServer(LockstepStore(1, sgd)), Heard(), FakeClock())
    rank.train()
    in_memory = Small().data("test")
    outputs = rank.model.module(torch.from_numpy(in_memory.inputs["input"]))
    expected = Small().metrics(outputs.detach().numpy(), in_memory.targets)
    assert rank.evaluate_test() == expected


@pytest.mark.parametrize("assigned", ["sharded", "replicated"])
def test_a_feed_asked_for_any_step_by_any_number_of_ranks_answers_as_a_fresh_one(
    assigned: str, streamed: Streamed
) -> None:
    """What was read ahead for other steps and ranks leaves no trace."""
    described = streamed.data("train")
    described = described.replicated() if assigned == "replicated" else described

    def fresh() -> Feed:
        return feed(described.open(), 16, 3, steps=100)

    asked = [(0, 0, 1), (1, 0, 1), (7, 1, 2), (8, 1, 2), (9, 0, 3), (99, 0, 1), (3, 2, 3)]
    one = fresh()
    for key in asked:
        assert_same(one(*key), fresh()(*key))


def assert_same(found: Examples, wanted: Examples) -> None:
    assert found.inputs.keys() == wanted.inputs.keys()  # none where a step has fewer examples than ranks
    for name, array in wanted.inputs.items():
        np.testing.assert_array_equal(found.inputs[name], array)
    np.testing.assert_array_equal(found.targets, wanted.targets)


def test_data_that_cannot_be_read_end_the_run_with_the_file(tmp_path: Path) -> None:
    program = Streamed(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"not Parquet")
    with pytest.raises(DataUnreadable, match=r"train\.parquet is no good Parquet"):
        Rank(program, RUN, ParameterServer(LockstepStore(1, sgd)), Heard(), FakeClock())
