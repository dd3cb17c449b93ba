"""The contract of everything that runs models: one seam, the same answers, the same errors."""

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from headrace_inference.cache import FileCache
from headrace_inference.core.catalog import Format
from headrace_inference.core.trial import rows_are_independent
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.opening import Opener
from headrace_inference.runners.runner import Runner
from tests.unit.inference import onnx_models, torch_models
from tests.unit.inference.open_models import model_file

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@dataclass(frozen=True)
class Kind:
    """Models of one format: all kinds have these three, with the same inputs and outputs."""

    format: Format
    affine: Callable[[], bytes]  # x [n, 3] -> scaled = 2 x, shifted = x + 1
    gather: Callable[[], bytes]  # x [n] -> y = table[x], with a table of 3 rows of 2
    vast: Callable[[], bytes]  # x [1] -> y of 2**50 elements


KINDS = {
    "onnx": Kind(Format.ONNX, onnx_models.affine, onnx_models.gather, onnx_models.vast),
    "torch": Kind(Format.TORCH_PROGRAM, torch_models.affine, torch_models.gather, torch_models.vast),
}
Open = Callable[[bytes], Runner]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def opened(kind: Kind, tmp_path: Path) -> Iterator[Open]:
    opener = Opener(Hardware(threads=2), FileCache(tmp_path, max_bytes=0))
    runners: list[Runner] = []

    def open_data(data: bytes) -> Runner:
        runners.append(opener.open(model_file(data, kind.format)))
        return runners[-1]

    yield open_data
    for runner in runners:
        runner.close()


def test_the_signature_says_what_it_takes_and_gives(kind: Kind, opened: Open) -> None:
    signature = opened(kind.affine()).signature
    assert [(one.name, one.datatype, one.shape) for one in signature.inputs] == [("x", "FP32", (-1, 3))]
    assert {one.name: one.shape for one in signature.outputs} == {"scaled": (-1, 3), "shifted": (-1, 3)}
    assert signature.may_batch


def test_it_gives_the_wished_outputs_and_no_others(kind: Kind, opened: Open) -> None:
    outputs = opened(kind.affine()).run({"x": X}, ["shifted"])
    assert {name: array.tolist() for name, array in outputs.items()} == {"shifted": (X + 1).tolist()}


def test_an_input_that_cannot_be_written_to_is_read(kind: Kind, opened: Open) -> None:
    """As are those that lie in the bytes of a message."""
    x = np.frombuffer(X.tobytes(), np.float32).reshape(X.shape)
    assert opened(kind.affine()).run({"x": x}, ["scaled"])["scaled"].tolist() == (2 * X).tolist()


def test_an_answer_is_not_touched_by_later_runs(kind: Kind, opened: Open) -> None:
    model = opened(kind.affine())
    answers = [model.run({"x": X + number}, ["scaled"])["scaled"] for number in range(5)]
    assert [answer.tolist() for answer in answers] == [(2 * (X + number)).tolist() for number in range(5)]


def test_runs_beside_each_other_do_not_mix(kind: Kind, opened: Open) -> None:
    model = opened(kind.affine())
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda n: model.run({"x": X * n}, ["scaled"])["scaled"].sum(), range(100)))
    assert sums == [2 * n * X.sum() for n in range(100)]


def test_values_that_it_cannot_run_are_the_callers_mistake(kind: Kind, opened: Open) -> None:
    model = opened(kind.gather())
    with pytest.raises(InvalidArgument, match=r"the model cannot run these inputs: .*ind"):
        model.run({"x": np.array([5])}, ["y"])
    assert model.run({"x": np.array([1])}, ["y"])["y"].tolist() == [[2, 3]]


def test_more_memory_than_there_is_is_refused(kind: Kind, opened: Open) -> None:
    with pytest.raises(ResourceExhausted, match="not enough memory for this request"):
        opened(kind.vast()).run({"x": np.ones(1, np.float32)}, ["y"])


def test_a_trial_finds_its_rows_independent(kind: Kind, opened: Open) -> None:
    model = opened(kind.affine())
    assert rows_are_independent(model, model.signature)


def test_a_file_that_is_none_of_its_format_is_refused(opened: Open) -> None:
    with pytest.raises(FailedPrecondition, match=r"cannot load the model|is no program of torch|is no "):
        opened(b"this is no model")


def test_closed_it_runs_no_more_and_is_not_held_in_memory(kind: Kind, opened: Open, tmp_path: Path) -> None:
    with closing(opened(kind.affine())) as model:
        model.run({"x": X}, ["scaled"])
    with pytest.raises(FailedPrecondition, match="the model is unloaded; load it again"):
        model.run({"x": X}, ["scaled"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_keeps_a_runner_that_nobody_uses(kind: Kind, tmp_path: Path) -> None:
    model = Opener(Hardware(), FileCache(tmp_path, 0)).open(model_file(kind.affine(), kind.format))
    model.run({"x": X}, ["scaled"])
    model.close()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
