"""Logs and snapshots that are written over old ones: what is left of these is never taken for new."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from headrace.errors import DataLoss
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.shard_map import ShardMap
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.journal import Limits
from headrace_parameters.journal.recovery import recover
from headrace_parameters.journal.snapshot_files import remove_snapshots, write_snapshot
from tests.unit.parameters.journal_files import JournaledShard, config, model, push_of, same

MIB = 1 << 20


@pytest.fixture
def over_an_old_one(tmp_path: Path) -> JournaledShard:
    """A store after 18 pushes, whose last segment holds 2 of them and, behind these, 2 of an older one."""
    store = JournaledShard(tmp_path, config(), Limits(log_bytes=1 << 30, log_pushes=4))
    store.initialize()
    for step in range(18):
        store.push(step)
        if store.journal.due:
            store.snapshot()
    store.journal.close()
    return store


def size_of_a_record(store: JournaledShard) -> int:
    return store.segments()[-1].stat().st_size // 4


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def test_a_log_ends_where_an_older_one_shows(over_an_old_one: JournaledShard, tmp_path: Path) -> None:
    assert over_an_old_one.segments()[-1].stat().st_size == over_an_old_one.segments()[-2].stat().st_size
    found = recover(tmp_path, config())
    assert (found.changes, found.cut_bytes) == (2, 0)
    assert same(found, model(config(), 18, lambda step: [push_of(step)]))


def test_the_last_record_over_an_old_one_cut_off_or_flipped_at_any_byte_is_not_there(
    over_an_old_one: JournaledShard, tmp_path: Path
) -> None:
    """A process that dies while it writes leaves the old bytes behind those it has written."""
    segment, size = over_an_old_one.segments()[-1], size_of_a_record(over_an_old_one)
    data, old = segment.read_bytes(), segment.read_bytes()[3 * size :]
    before = model(config(), 17, lambda step: [push_of(step)])
    for place in range(size, 2 * size):
        torn = data[:place] + old[place - size :] + data[2 * size :]
        for content in (torn, flipped(data, place)):
            segment.write_bytes(content)
            assert same(recover(tmp_path, config()), before)
            assert segment.stat().st_size == size


def test_a_record_over_an_old_one_flipped_at_any_byte_before_the_last_is_refused(
    over_an_old_one: JournaledShard, tmp_path: Path
) -> None:
    segment, size = over_an_old_one.segments()[-1], size_of_a_record(over_an_old_one)
    data = segment.read_bytes()
    for place in range(size):
        segment.write_bytes(flipped(data, place))
        with pytest.raises(DataLoss, match="is damaged at byte 0"):
            recover(tmp_path, config())


def test_an_old_record_in_the_place_of_a_new_one_is_refused(
    over_an_old_one: JournaledShard, tmp_path: Path
) -> None:
    """A disk that lost the first of two writes in a loss of power shows what was there before them."""
    segment, size = over_an_old_one.segments()[-1], size_of_a_record(over_an_old_one)
    data = segment.read_bytes()
    segment.write_bytes(data[2 * size : 3 * size] + data[size:])
    with pytest.raises(DataLoss, match="of an older segment"):
        recover(tmp_path, config())


def test_a_death_before_the_first_record_over_an_old_segment_costs_nothing(
    over_an_old_one: JournaledShard, tmp_path: Path
) -> None:
    last = over_an_old_one.segments()[-1]
    last.write_bytes((tmp_path / "spare-log").read_bytes())
    assert same(recover(tmp_path, config()), model(config(), 16, lambda step: [push_of(step)]))
    assert last.stat().st_size == 0


def large_state(values: torch.Tensor, version: int) -> ShardState:
    return ShardState(
        layout=FlatLayout((TensorSpec("w", (values.numel(),)),)),
        shard_index=0,
        map=ShardMap.first(values.numel(), 1),
        optimizer="adamw",
        version=version,
        last_steps={0: version},
        values=values,
        optimizer_state={"exp_avg": torch.full_like(values, 2), "step": torch.tensor(float(version))},
    )


def test_a_snapshot_over_an_old_one_writes_what_is_different_and_is_whole(tmp_path: Path) -> None:
    values = torch.ones(2 * MIB)
    first = write_snapshot(tmp_path, 9, large_state(values, version=9))
    remove_snapshots([first])
    values[MIB] = 7
    written = psutil.Process().io_counters().write_chars

    second = write_snapshot(tmp_path, 10, large_state(values, version=10))

    assert psutil.Process().io_counters().write_chars - written < 3 * MIB, "of 16 MiB, one block changed"
    found = second.load().state
    assert (found.version, found.last_steps) == (10, {0: 10})
    assert torch.equal(found.values, values)
    assert torch.equal(load_file(second.path)["optimizer.exp_avg"], torch.full_like(values, 2))
    assert list(tmp_path.iterdir()) == [second.path]


def test_a_snapshot_shorter_than_the_one_it_is_written_over_ends_where_it_ends(tmp_path: Path) -> None:
    remove_snapshots([write_snapshot(tmp_path, 1, large_state(torch.ones(MIB), version=1))])
    found = write_snapshot(tmp_path, 2, large_state(torch.zeros(9), version=2)).load().state
    assert np.array_equal(found.values.numpy(), np.zeros(9, np.float32))
