"""The contract of everything that runs models: one seam, the same answers, the same errors."""

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import FailedPrecondition, InvalidArgument, ProgramNotAllowed, ResourceExhausted
from headrace_inference.cache import FileCache
from headrace_inference.core.batching import Batching
from headrace_inference.core.catalog import Format
from headrace_inference.core.config import ModelConfig
from headrace_inference.core.signature import Signature, Tensor
from headrace_inference.core.trial import rows_are_independent
from headrace_inference.decoupled import DecoupledRunner
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.opening import Opener
from headrace_inference.runners.python_function import PythonRunner
from headrace_inference.runners.runner import Runner
from tests.unit.inference import onnx_models, torch_models
from tests.unit.inference.open_models import model_file

FUNCTIONS = "tests.unit.inference.python_models"
ROWS = Tensor("x", "FP32", ("n", 3))
Model = tuple[bytes, ModelConfig]
X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@dataclass(frozen=True)
class Kind:
    """Models of one format: all kinds have these three, with the same inputs and outputs."""

    format: Format
    affine: Callable[[], Model]  # x [n, 3] -> scaled = 2 x, shifted = x + 1
    gather: Callable[[], Model]  # x [n] -> y = table[x], with a table of 3 rows of 2
    vast: Callable[[], Model]  # x [1] -> y of 2**50 elements


def made(make: Callable[[], bytes]) -> Callable[[], Model]:
    return lambda: (make(), ModelConfig(Batching()))


def function(name: str, x: Tensor, *outputs: Tensor) -> Callable[[], Model]:
    config = ModelConfig(Batching(), function=f"{FUNCTIONS}:{name}", signature=Signature((x,), outputs))
    return lambda: (b"", config)


KINDS = {
    "onnx": Kind(Format.ONNX, made(onnx_models.affine), made(onnx_models.gather), made(onnx_models.vast)),
    "torch": Kind(
        Format.TORCH_PROGRAM, made(torch_models.affine), made(torch_models.gather), made(torch_models.vast)
    ),
    "python": Kind(
        Format.CONFIG,
        function("Affine", ROWS, replace(ROWS, name="scaled"), replace(ROWS, name="shifted")),
        function("Gather", Tensor("x", "INT64", ("n",)), Tensor("y", "FP32", ("n", 2))),
        function("Vast", Tensor("x", "FP32", (1,)), Tensor("y", "FP32", ("", ""))),
    ),
}
Open = Callable[[Model], Runner]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def opened(kind: Kind, tmp_path: Path) -> Iterator[Open]:
    opener = Opener(Hardware(threads=2), FileCache(tmp_path, max_bytes=0), [FUNCTIONS])
    runners: list[Runner] = []

    def open_data(model: Model) -> Runner:
        data, config = model
        runner = opener.open(model_file(data, kind.format), config)
        assert not isinstance(runner, DecoupledRunner)
        runners.append(runner)
        return runner

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


def test_what_is_no_model_of_its_format_is_refused(opened: Open) -> None:
    nothing = ModelConfig(
        Batching(), function=f"{FUNCTIONS}:NO_CALLABLE", signature=Signature((ROWS,), (ROWS,))
    )
    with pytest.raises(
        FailedPrecondition, match=r"cannot load the model|is no program of torch|is not callable"
    ):
        opened((b"this is no model", nothing))


def test_closed_it_runs_no_more_and_is_not_held_in_memory(kind: Kind, opened: Open, tmp_path: Path) -> None:
    with closing(opened(kind.affine())) as model:
        model.run({"x": X}, ["scaled"])
    with pytest.raises(FailedPrecondition, match="the model is unloaded; load it again"):
        model.run({"x": X}, ["scaled"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_keeps_a_runner_that_nobody_uses(kind: Kind, tmp_path: Path) -> None:
    data, config = kind.affine()
    model = Opener(Hardware(), FileCache(tmp_path, 0), [FUNCTIONS]).open(
        model_file(data, kind.format), config
    )
    assert not isinstance(model, DecoupledRunner)
    model.run({"x": X}, ["scaled"])
    model.close()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def python(name: str, *allowed: str, **config: object) -> Runner:
    y = Tensor("y", "FP32", ("n", 3))
    wrong = ModelConfig(
        Batching(), function=f"{FUNCTIONS}:{name}", function_config=config, signature=Signature((ROWS,), (y,))
    )
    return PythonRunner(wrong, allowed)


def test_a_function_of_a_module_that_is_not_allowed_is_never_imported() -> None:
    with pytest.raises(ProgramNotAllowed, match="ask the operator to add it to ALLOWED_FUNCTIONS"):
        python("Affine", "tests.unit.inference.python")


@pytest.mark.parametrize(
    ("kind_of_wrong", "message"),
    [
        ("nothing", "gives NoneType for output 'y'; it must give an array"),
        ("list", "gives list for output 'y'"),
        ("type", r"gives INT64 \[2, 3\] for output 'y', which is declared as FP32 \[-1, 3\]"),
        ("shape", r"gives FP32 \[2, 1\] for output 'y'"),
    ],
)
def test_a_function_that_gives_something_else_than_it_declares_is_told(
    kind_of_wrong: str, message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        python("Wrong", FUNCTIONS, kind=kind_of_wrong).run({"x": X}, ["y"])


@pytest.mark.parametrize("name", ["Missing", "NO_CALLABLE"])
def test_a_function_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"has no 'Missing'|is not callable"):
        python(name, FUNCTIONS)
