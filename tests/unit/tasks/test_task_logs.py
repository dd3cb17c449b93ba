"""Logs in bounded files, and where they are kept."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import NotFound
from headrace.names import TaskName
from headrace.tasks.log import CHUNK_BYTES, LogWriter, read_log, tail_offset
from headrace.tasks.records import Kept, Records

NAME = TaskName("default", "train-1")
MAX_BYTES = 64
WRITES = st.lists(st.binary(min_size=1, max_size=12) | st.just(b"a\n") | st.just(b"\n"), max_size=40)
IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, writes: list[bytes]) -> bytes:
    for old in folder.iterdir():
        old.unlink()
    with LogWriter(folder, MAX_BYTES) as log:
        for data in writes:
            log.write(data)
    return b"".join(writes)


def read_all(folder: Path, offset: int = 0) -> tuple[int, bytes]:
    begin, data = read_log(folder, offset)
    while data and (more := read_log(folder, begin + len(data))[1]):
        data += more
    return begin, data


@IN_A_FOLDER
@given(writes=WRITES)
def test_the_newest_bytes_are_kept_at_their_places(tmp_path: Path, writes: list[bytes]) -> None:
    whole = written(tmp_path, writes)
    begin, data = read_all(tmp_path)
    assert data == whole[begin:]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= MAX_BYTES
    assert len(data) >= min(len(whole), MAX_BYTES // 4)
    assert begin == 0 or len(whole) > MAX_BYTES // 2


@IN_A_FOLDER
@given(writes=WRITES, offset=st.integers(0, 300))
def test_reading_begins_where_it_is_asked_to_or_with_the_oldest_byte(
    tmp_path: Path, writes: list[bytes], offset: int
) -> None:
    whole = written(tmp_path, writes)
    oldest, _ = read_all(tmp_path)
    begin, data = read_all(tmp_path, offset)
    if offset < len(whole):
        assert (begin, data) == (max(offset, oldest), whole[max(offset, oldest) :])
    else:
        assert (begin, data) == (offset, b"")


@IN_A_FOLDER
@given(writes=WRITES, lines=st.integers(1, 50))
def test_a_tail_is_the_last_lines(tmp_path: Path, writes: list[bytes], lines: int) -> None:
    whole = written(tmp_path, writes)
    oldest, kept = read_all(tmp_path)
    expected = _last_lines(kept, lines)
    begin = max(tail_offset(tmp_path, lines), oldest)
    assert whole[begin:] == expected


def _last_lines(data: bytes, lines: int) -> bytes:
    parts = data.split(b"\n")
    whole = [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    return b"".join(whole[-lines:])


def test_what_could_not_be_written_is_a_gap_and_the_rest_keeps_its_place(tmp_path: Path) -> None:
    with LogWriter(tmp_path, 4 << 20) as log:
        log.write(b"first.")
        log._file.close()
        log._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the log closes it
        with pytest.raises(OSError, match="No space left"):
            log.write(b"second.")
        log.write(b"third.")
    assert read_log(tmp_path, 0) == (0, b"first.")
    assert read_log(tmp_path, 6) == (13, b"third.")


def test_no_part_is_larger_than_a_message(tmp_path: Path) -> None:
    with LogWriter(tmp_path, 4 << 20) as log:
        for _ in range(3):
            log.write(b"x" * CHUNK_BYTES)
    assert len(read_log(tmp_path, 5)[1]) == CHUNK_BYTES


def test_the_latest_attempt_is_found_and_a_former_one_by_its_epoch(tmp_path: Path) -> None:
    records = Records(tmp_path)
    folders = {epoch: records.begin(NAME, epoch) for epoch in (2, 10, 9)}
    assert records.find(NAME, 0) == folders[10]
    assert records.find(NAME, 2) == folders[2]
    with pytest.raises(NotFound, match="keeps nothing of projects/default/tasks/train-1 in epoch 3"):
        records.find(NAME, 3)


def test_a_task_of_a_like_named_project_is_another_one(tmp_path: Path) -> None:
    """Ids may have dots: joined by dots the two would be one."""
    records = Records(tmp_path)
    records.begin(TaskName("a.b", "c"), 1)
    with pytest.raises(NotFound):
        records.find(TaskName("a", "b.c"), 0)


def test_the_tasks_that_ended_first_go_first_and_none_that_runs(tmp_path: Path) -> None:
    records = Records(tmp_path, Kept(tasks=2))
    running = records.begin(TaskName("default", "running"), 1)
    for number in range(4):
        folder = records.begin(TaskName("default", f"t{number}"), 1)
        records.end(folder)
        os.utime(folder, (number, number))
    os.utime(running, (0, 0))
    records.begin(TaskName("default", "next"), 1)
    assert sorted(path.name for path in (tmp_path / "default").iterdir()) == ["next", "running", "t2", "t3"]
