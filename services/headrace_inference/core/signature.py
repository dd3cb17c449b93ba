"""What a model takes and gives, and whether a request fits."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headrace.errors import DtypeMismatch, FailedPrecondition, InvalidArgument, ShapeMismatch
from headrace.inference.tensors import Array, datatype_of, dtype_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Args:
        datatype: "FP32", "INT64", "BYTES", ...
        axes: For each axis its size, or the name of a size that may vary; sizes of one name are equal in one request.
            An empty name stands for any size.
    """

    name: str
    datatype: str
    axes: tuple[int | str, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Its datatype, as numpy has it."""
        return dtype_of(self.datatype)

    @cached_property
    def shape(self) -> Shape:
        """The sizes, -1 where they may vary."""
        return tuple(-1 if isinstance(axis, str) else axis for axis in self.axes)

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """All inputs and outputs of a model, in its own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @cached_property
    def _inputs(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.inputs}

    @cached_property
    def _outputs(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.outputs}

    @cached_property
    def _has_common_sizes(self) -> bool:
        """Whether one size stands at several places of the inputs, which then must have it all."""
        names = [axis for tensor in self.inputs for axis in tensor.axes if isinstance(axis, str) and axis]
        return len(names) > len({*names})

    @cached_property
    def may_batch(self) -> bool:
        """Whether the first axes allow requests to be joined: one varying size, the same for all inputs and outputs.

        Whether the rows are independent of one another is not written in a signature: a trial run shows it.
        """
        tensors = self.inputs + self.outputs
        first = {tensor.axes[0] if tensor.axes else 1 for tensor in tensors}
        batch = first.pop() if len(first) == 1 else 1
        elsewhere = {axis for tensor in tensors for axis in tensor.axes[1:]} - {""}
        return bool(self.inputs) and isinstance(batch, str) and batch not in elsewhere

    def check_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Refuse what the model would stumble over.

        Raises:
            InvalidArgument: An input is missing or unknown.
            DtypeMismatch, ShapeMismatch: An input is not of the model's type or shape.
        """
        expected = self._inputs
        if inputs.keys() != expected.keys():
            _refuse_unknown("input", inputs, expected)
            missing = next(name for name in expected if name not in inputs)
            raise InvalidArgument(
                f"input {missing!r} is missing; {_listing('input', expected)}", field="inputs"
            )
        for name, tensor in expected.items():
            _check_tensor(tensor, inputs[name])
        if self._has_common_sizes:
            sizes: dict[str, tuple[int, str]] = {}
            for name, tensor in expected.items():
                _bind_sizes(tensor, inputs[name].shape, sizes)

    def choose_outputs(self, wished: Iterable[str]) -> tuple[str, ...]:
        """Return the wished outputs in the wished order; all of the model's if none is wished.

        Raises:
            InvalidArgument: One is unknown, or wished twice.
        """
        names = tuple(wished)
        if not names:
            return tuple(self._outputs)
        _refuse_unknown("output", names, self._outputs)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InvalidArgument(f"output {twice[0]!r} is wished twice", field="outputs")
        return names


def check_declared(declared: Signature | None, actual: Signature) -> None:
    """Refuse a model that is not what its configuration says; None says nothing.

    Raises:
        FailedPrecondition: A name, a type, or a size that both fix is another one.
    """
    if declared is None:
        return
    for kind, said, found in (
        ("input", declared.inputs, actual.inputs),
        ("output", declared.outputs, actual.outputs),
    ):
        tensors = {tensor.name: tensor for tensor in found}
        for tensor in said:
            if tensor.name not in tensors or not agree(tensor, tensors[tensor.name]):
                raise FailedPrecondition(
                    f"the configuration declares {kind} {tensor.name!r} {tensor}; {_listing(kind, tensors)}"
                )


def agree(one: Tensor, other: Tensor) -> bool:
    """Tell whether an array may be both: of one type, and of sizes that are equal where both fix them."""
    sizes = zip(one.shape, other.shape, strict=False)
    return (
        one.datatype == other.datatype
        and len(one.axes) == len(other.axes)
        and all(mine == theirs or -1 in (mine, theirs) for mine, theirs in sizes)
    )


def _refuse_unknown(kind: str, names: Iterable[str], expected: Mapping[str, Tensor]) -> None:
    for name in names:
        if name not in expected:
            raise InvalidArgument(
                f"the model has no {kind} {name!r}; {_listing(kind, expected)}", field=f"{kind}s"
            )


def _listing(kind: str, tensors: Mapping[str, Tensor]) -> str:
    return f"its {kind}s are " + ", ".join(f"{name!r} {tensor}" for name, tensor in tensors.items())


def _check_tensor(tensor: Tensor, array: Array) -> None:
    if array.dtype != tensor.dtype:
        raise DtypeMismatch(
            f"input {tensor.name!r} is {datatype_of(array.dtype)}, but the model takes {tensor.datatype}",
            field="inputs",
        )
    if not _fits(tensor.shape, array.shape):
        raise ShapeMismatch(
            f"input {tensor.name!r} has shape {list(array.shape)}, but the model takes {list(tensor.shape)}",
            field="inputs",
        )


def _fits(expected: Shape, shape: Shape) -> bool:
    if len(shape) != len(expected):
        return False
    # A loop, because each request comes here: `all` takes three times as long.
    for size, wanted in zip(shape, expected, strict=True):  # noqa: SIM110 - see above
        if size != wanted and wanted >= 0:
            return False
    return True


def _bind_sizes(tensor: Tensor, shape: Shape, sizes: dict[str, tuple[int, str]]) -> None:
    """Note the varying sizes of `shape` in `sizes`, each with the input that set it first."""
    for axis, size in _named_axes(tensor, shape):
        bound, where = sizes.setdefault(axis, (size, tensor.name))
        if size != bound:
            raise ShapeMismatch(
                f"input {tensor.name!r} has {size} where input {where!r} has {bound}; "
                f"the model needs both to be the same size {axis!r}",
                field="inputs",
            )


def _named_axes(tensor: Tensor, shape: Shape) -> Iterator[tuple[str, int]]:
    for axis, size in zip(tensor.axes, shape, strict=True):
        if isinstance(axis, str) and axis:
            yield axis, size
