"""The inputs of `headrace predict`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from headrace.cli.arrays import read_inputs
from headrace.errors import InvalidArgument
from headrace.inference.client import TensorMetadata


def signature() -> Sequence[TensorMetadata]:
    return [
        TensorMetadata("ids", "INT64", (-1, 2)),
        TensorMetadata("mask", "BOOL", (-1,)),
        TensorMetadata("text", "BYTES", (-1,)),
    ]


def never_asked() -> Sequence[TensorMetadata]:
    raise AssertionError("an array from a file has its type")


def write_npy(path: Path, array: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> Path:
    with path.open("wb") as file:
        npy.write_array(file, array)
    return path


def test_json_becomes_the_type_the_model_takes() -> None:
    inputs = read_inputs(["ids=[[1,2],[3,4]]", "mask=[true,false]", 'text=["ä","b"]'], signature)

    assert inputs["ids"].dtype == np.int64
    assert inputs["ids"].tolist() == [[1, 2], [3, 4]]
    assert inputs["mask"].dtype == np.bool_
    assert inputs["text"].tolist() == ["ä", "b"]


def test_a_name_the_model_lacks_is_left_to_the_server_to_refuse() -> None:
    assert read_inputs(["other=[0.5]"], signature)["other"].dtype == np.float32


def test_an_array_is_read_from_a_file_as_it_is(tmp_path: Path) -> None:
    file = write_npy(tmp_path / "image.npy", np.ones((1, 2), np.float32))

    inputs = read_inputs([f"image=@{file}"], never_asked)

    assert inputs["image"].tolist() == [[1.0, 1.0]]


def test_json_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("[[5, 6]]")

    assert read_inputs([f"ids=@{tmp_path / 'ids.json'}"], signature)["ids"].tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        ("[1,2]", "it has no name"),
        ("=[1]", "it has no name"),
        ("x=[1,", "it is not JSON"),
        ("x=@absent.npy", "No such file"),
        ("x=@absent.json", "No such file"),
    ],
)
def test_what_cannot_be_read_says_how_it_is_written(pair: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as raised:
        read_inputs([pair], never_asked)

    assert "write x=[[1,2],[3,4]], x=@file.npy or x=@file.json" in str(raised.value)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")

    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_inputs([f"x=@{tmp_path / 'x.npy'}"], never_asked)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    """Reading one would unpickle it."""
    header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    with (tmp_path / "x.npy").open("wb") as file:
        npy.write_array_header_1_0(file, header)
        file.write(b"cos\nsystem\n(S'true'\ntR.")

    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_inputs([f"x=@{tmp_path / 'x.npy'}"], never_asked)


@pytest.mark.parametrize("pair", ["ids=[[1],[2,3]]", 'ids=["a"]', "ids=[1e400]", "ids=[1.5]"])
def test_json_that_is_no_array_of_that_type_is_refused(pair: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot become an array of int64"):
        read_inputs([pair], signature)
