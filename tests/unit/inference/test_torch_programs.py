"""Programs of torch.export are data: they are interpreted, and nothing in them can run code of its own."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from headrace.errors import FailedPrecondition
from headrace.inference.tensors import dtype_of
from headrace_inference.runners.torch_archive import read_program
from headrace_inference.runners.torch_program import TorchRunner
from tests.unit.inference import torch_models
from tests.unit.inference.torch_models import changed, exported

MODEL = "models/model.json"


def test_sizes_splits_and_outputs_without_a_name_are_as_in_torch() -> None:
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(-2, 3)
    model = torch_models.Sized()
    runner = TorchRunner(exported(model, torch.ones(2, 3), torch.ones(2, dtype=torch.int64)), threads=1)
    outputs = runner.run({"x": x.numpy(), "y": y.numpy()}, ["output_0", "output_1"])
    for expected, actual in zip(model(x.clone(), y), outputs.values(), strict=True):
        np.testing.assert_array_equal(actual, expected.numpy())


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_datatypes_pass_through(dtype: torch.dtype) -> None:
    class Negated(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(1)

    runner = TorchRunner(exported(Negated(), torch.ones(2, 2, dtype=dtype)), threads=1)
    (tensor,) = runner.signature.inputs
    x = np.array([[0, 1]]).astype(dtype_of(tensor.datatype))
    y = runner.run({"x": x}, ["output"])["output"]
    assert (y.dtype, y.astype(float).tolist()) == (x.dtype, [[1, 0]])


def test_what_belongs_to_the_caller_or_to_the_model_is_copied() -> None:
    runner = TorchRunner(exported(torch_models.Lent(), torch.ones(2, 3)), threads=1)
    x = np.ones((2, 3), np.float32)
    outputs = runner.run({"x": x}, ["given", "own"])
    outputs["given"][:] = outputs["own"][:] = 7
    assert x.tolist() == [[1, 1, 1]] * 2
    assert runner.run({"x": x}, ["own"])["own"].tolist() == [0] * 6


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten._sparse_coo_tensor_unsafe.default",  # these two write wherever a tensor says
        "torch.ops.aten.max_pool2d_with_indices_backward.default",
        "torch.ops.aten.empty.memory_format",  # these show what others have left in memory
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.mul.__class__",
        "torch.ops.aten.__init__.default",
        "torch.ops.quantized.add.default",
        "torch.ops.aten.mul.Tensor.__call__",
        "_operator.attrgetter",
        "math.sqrt",
        "#extension",
        "print",
    ],
)
def test_only_operators_of_aten_and_arithmetic_of_sizes_are_called(target: str) -> None:
    data = changed(
        torch_models.affine(), MODEL, lambda text: text.replace("torch.ops.aten.mul.Tensor", target)
    )
    with pytest.raises(FailedPrecondition, match=r"only operators of torch.ops.aten are run|has no operator"):
        TorchRunner(data, threads=1)


def test_code_in_sizes_and_guards_is_never_evaluated(tmp_path: Any) -> None:
    """`torch.export.load` evaluates both."""
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path('{marker}').touch()"

    def plant(text: str) -> str:
        planted = text.replace("Symbol('", f"{code} or Symbol('")
        return planted.replace('"guards_code": [', f'"guards_code": ["{code}", ').replace(", ]", "]")

    runner = TorchRunner(changed(torch_models.affine(), MODEL, plant), threads=1)
    assert runner.signature.inputs[0].shape == (-1, 3)
    runner.run({"x": np.ones((1, 3), np.float32)}, ["scaled"])
    assert not marker.exists()


def test_a_small_file_that_unpacks_to_much_is_refused() -> None:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_models.affine())) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as copy,
    ):
        for name in plain.namelist():
            copy.writestr(name, plain.read(name))
    with pytest.raises(FailedPrecondition, match="of the program is compressed"):
        read_program(packed.getvalue())


def test_pickled_tensors_are_refused() -> None:
    data = changed(
        torch_models.affine(),
        "data/weights/model_weights_config.json",
        lambda text: text.replace('"use_pickle": false', '"use_pickle": true').replace(
            '"use_pickle":false', '"use_pickle":true'
        ),
    )
    with pytest.raises(FailedPrecondition, match="'factor' of the program is a pickle, which could run code"):
        read_program(data)


def test_a_tensor_outside_of_its_file_is_refused() -> None:
    data = changed(
        torch_models.gather(),
        "data/weights/model_weights_config.json",
        lambda text: text.replace('"as_int": 3', '"as_int": 300').replace('"as_int":3', '"as_int":300'),
    )
    with pytest.raises(FailedPrecondition, match="a tensor of the program is not inside"):
        TorchRunner(data, threads=1)


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("runs").add_(1)
        return x + self.get_buffer("runs")


class Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen: torch.Tensor = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
        return chosen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Counting, "the program changes its tensor 'b_runs' while it runs"),
        (Branching, "only operators of torch.ops.aten are run"),
    ],
)
def test_programs_that_cannot_be_interpreted_are_refused(
    make: Callable[[], torch.nn.Module], message: str
) -> None:
    data = exported(make(), torch.ones(2, 3))
    with pytest.raises(FailedPrecondition, match=message):
        TorchRunner(data, threads=1)


def test_another_version_of_the_format_is_refused() -> None:
    data = changed(
        torch_models.affine(),
        MODEL,
        lambda text: text.replace('"major": 8', '"major": 9').replace('"major":8', '"major":9'),
    )
    with pytest.raises(FailedPrecondition, match="has version 9 of its format, and 8 is read here"):
        read_program(data)
