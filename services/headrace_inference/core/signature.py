"""What a model takes and gives, and whether a request fits."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from headrace.errors import DtypeMismatch, FailedPrecondition, InvalidArgument, ShapeMismatch
from headrace.inference.tensors import Array, datatype_of

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

    @property
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

    @property
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
        expected = {tensor.name: tensor for tensor in self.inputs}
        _refuse_unknown("input", inputs, expected)
        missing = [name for name in expected if name not in inputs]
        if missing:
            raise InvalidArgument(
                f"input {missing[0]!r} is missing; {_listing('input', expected)}", field="inputs"
            )
        sizes: dict[str, tuple[int, str]] = {}
        for name, tensor in expected.items():
            _check_tensor(tensor, inputs[name])
            _bind_sizes(tensor, inputs[name].shape, sizes)

    def choose_outputs(self, wished: Iterable[str]) -> tuple[str, ...]:
        """Return the wished outputs in the wished order; all of the model's if none is wished.

        Raises:
            InvalidArgument: One is unknown, or wished twice.
        """
        names = tuple(wished)
        expected = {tensor.name: tensor for tensor in self.outputs}
        _refuse_unknown("output", names, expected)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InvalidArgument(f"output {twice[0]!r} is wished twice", field="outputs")
        return names or tuple(expected)


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
    datatype = datatype_of(array.dtype)
    if datatype != tensor.datatype:
        raise DtypeMismatch(
            f"input {tensor.name!r} is {datatype}, but the model takes {tensor.datatype}", field="inputs"
        )
    if not _fits(tensor.shape, array.shape):
        raise ShapeMismatch(
            f"input {tensor.name!r} has shape {list(array.shape)}, but the model takes {list(tensor.shape)}",
            field="inputs",
        )


def _fits(expected: Shape, shape: Shape) -> bool:
    return len(shape) == len(expected) and all(
        size == wanted or wanted < 0 for size, wanted in zip(shape, expected, strict=True)
    )


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
