"""Where rows end in files of lines, against Python's own reader."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.sources import lines
from headrace.data.sources.lines import spans_of
from headrace.data.storage.local import LocalFile

fields = st.text(st.sampled_from('ab,"\n\r é'), max_size=6)
tables = st.lists(st.tuples(fields, fields), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "x.csv"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@given(tables, st.integers(1, 40), st.integers(1, 50))
def test_spans_hold_whole_rows_and_all_of_them(
    path: Path, newline: str, table: list[tuple[str, str]], block_bytes: int, piece: int
) -> None:
    """Newlines between quotes are part of their row; files are looked at in pieces of any size."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=newline).writerows(table)
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_PIECE", piece)
        spans = spans_of([LocalFile.found(path)], [0], quoted=True, block_bytes=block_bytes)
    data = path.read_bytes()
    assert b"".join(data[span.start : span.end] for span in spans) == data
    parsed = [
        list(csv.reader(io.StringIO(data[span.start : span.end].decode(), newline=""))) for span in spans
    ]
    assert [len(rows) for rows in parsed] == [span.rows for span in spans]
    assert [tuple(row) for rows in parsed for row in rows] == table
    assert [span.first_row for span in spans] == np.cumsum([0, *[len(rows) for rows in parsed[:-1]]]).tolist()


@given(st.lists(st.sampled_from([b"", b"\r", b"{}", b"x"]), min_size=1), st.integers(1, 9), st.booleans())
def test_empty_lines_are_no_rows(path: Path, content: list[bytes], piece: int, ends: bool) -> None:
    path.write_bytes(b"\n".join(content) + b"\n" * ends)
    wanted = sum(line not in (b"", b"\r") for line in content)
    if not wanted or (not ends and content[-1] == b"\r"):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_PIECE", piece)
        spans = spans_of([LocalFile.found(path)], [0], quoted=False, block_bytes=5)
    assert sum(span.rows for span in spans) == wanted
