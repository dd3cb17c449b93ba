"""An exported program of torch, interpreted operator by operator. Importing this module imports torch."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch

from headrace.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from headrace.inference.tensors import Array
from headrace_inference.core.batching import Arrays
from headrace_inference.runners.torch_archive import DATATYPES, Node, Weight, read_program

_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7  # the only layout that there is here
_PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_string", "as_bool", "as_bools", "as_int_lists")

Values = dict[str, Any]
Read = Callable[[Values], Any]


class TorchRunner:
    """One exported program on the processor; thread-safe.

    Args:
        threads: Threads that torch shares among all its models.
    Raises:
        FailedPrecondition: The file is no such program, or one that cannot be served.
    """

    def __init__(self, data: bytes, threads: int) -> None:
        program = read_program(data)
        torch.set_num_threads(threads)
        self.signature = program.signature
        storages = {path: _storage(data) for path, data in program.files.items()}
        self._weights: Values | None = {
            name: _weight(weight, storages) for name, weight in program.weights.items()
        }
        self._steps = [_Step(node) for node in program.nodes]
        self._takes, self._gives = program.takes, program.gives
        self._writes = any(step.written for step in self._steps)
        _refuse_writes_to_weights(self._steps, program.weights)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs."""
        weights = self._weights
        if weights is None:
            raise FailedPrecondition("the model is unloaded; load it again")
        given = {name: self._taken(inputs[name]) for name in self._takes}
        try:
            with torch.inference_mode():
                values = self._values({**weights, **given})
        except MemoryError as error:
            raise _no_memory() from error
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise _unrunnable(error) from error
        names = [tensor.name for tensor in self.signature.outputs]
        inner = dict(zip(names, self._gives, strict=True))
        lent = {tensor.untyped_storage().data_ptr() for tensor in (*weights.values(), *given.values())}
        return {name: _array(values[inner[name]], lent) for name in outputs}

    def _taken(self, array: Array) -> torch.Tensor:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
        # torch knows no arrays that cannot be written, and some programs do write into what they were given.
        safe = array.flags.writeable and array.flags.c_contiguous and not self._writes
        return torch.from_numpy(array if safe else np.array(array, order="C"))

    def _values(self, values: Values) -> Values:
        for step in self._steps:
            step.run(values)
        return values

    def close(self) -> None:
        """Give back the weights."""
        self._weights = None


class _Step:
    """One node: `run` reads its arguments from the values by name, and adds its results."""

    def __init__(self, node: Node) -> None:
        self._call = _callable(node.operator)
        self._args = [_reader(argument) for argument in node.args]
        self._kwargs = {name: _reader(argument) for name, argument in node.kwargs.items()}
        self._results = node.results
        self.tensors = set(_names(node.args)) | set(_names(node.kwargs.values()))
        self.results = {name for name in node.results if isinstance(name, str)}
        self.results |= {name for names in node.results if not isinstance(names, str) for name in names or ()}
        self.written: set[str] = set()
        self.gives_views = False
        if isinstance(self._call, torch._ops.OpOverload):  # noqa: SLF001 - as above
            self._read_schema(self._call._schema, node)  # noqa: SLF001 - as above

    def _read_schema(self, schema: Any, node: Node) -> None:
        """Learn from the operator's declaration what it writes to, and whether it gives views."""
        given = {**dict(zip((one.name for one in schema.arguments), node.args, strict=False)), **node.kwargs}
        changed = [given[one.name] for one in schema.arguments if _is_written(one) and one.name in given]
        self.written = set(_names(changed))
        self.gives_views = any(one.alias_info is not None for one in schema.returns)

    def run(self, values: Values) -> None:
        args = [read(values) for read in self._args]
        kwargs = {name: read(values) for name, read in self._kwargs.items()}
        result = self._call(*args, **kwargs)
        results = result if len(self._results) > 1 else (result,)
        for name, value in zip(self._results, results, strict=False):  # what nobody uses may have no name
            if isinstance(name, str):
                values[name] = value
            elif name is not None:
                values.update(zip(name, value, strict=True))


def _callable(path: tuple[str, ...]) -> Callable[..., Any]:
    if path[0] == "operator":
        arithmetic: Callable[..., Any] = getattr(operator, path[1])
        return arithmetic
    found: Any = torch.ops.aten
    for name in path[1:]:
        found = getattr(found, name, None)
    if not isinstance(found, torch._ops.OpOverload):  # noqa: SLF001 - what all of them are, and nothing else
        raise FailedPrecondition(
            f"this torch ({torch.__version__}) has no operator {'.'.join(path)}; save with its version"
        )
    return found


def _refuse_writes_to_weights(steps: Sequence["_Step"], weights: Iterable[str]) -> None:
    """Refuse programs that change what all runs share, directly or through views."""
    lent = set(weights)
    for step in steps:
        if lent & step.written:
            raise FailedPrecondition(
                f"the program changes its tensor {min(lent & step.written)!r} while it runs; export it in eval mode, without such a change"
            )
        if step.gives_views and lent & step.tensors:
            lent |= step.results


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _names(arguments: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of the tensors among arguments."""
    for argument in arguments:
        ((_, content),) = argument.items()
        for one in content if isinstance(content, list) else [content]:
            tensor = one.get("as_tensor", one) if isinstance(one, dict) else None
            if isinstance(tensor, dict) and "name" in tensor:
                yield tensor["name"]


def _reader(argument: Mapping[str, Any]) -> Read:
    ((kind, content),) = argument.items()
    if kind in ("as_tensor", "as_optional_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        return _one(content)
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats"):
        readers = [_one(one) for one in content]
        return lambda values: [read(values) for read in readers]
    constant = _constant(kind, content)
    return lambda _: constant


def _one(content: Mapping[str, Any]) -> Read:
    """Read {"name"}, {"as_name"}, {"as_tensor": {"name"}}, {"as_none"}, {"as_int"}, {"as_float"} or {"as_bool"}."""
    if "as_tensor" in content:
        content = content["as_tensor"]
    name = content.get("name", content.get("as_name"))
    if name is not None:
        return operator.itemgetter(name)
    if "as_none" in content:
        return lambda _: None
    ((kind, constant),) = content.items()
    if kind not in _PLAIN:
        raise FailedPrecondition(f"the program has an argument of kind {kind!r}, which is not known here")
    return lambda _: constant


def _constant(kind: str, content: Any) -> Any:
    if kind in _PLAIN:
        return content
    if kind == "as_none":
        return None
    if kind == "as_scalar_type" and content in DATATYPES:
        return _DTYPES[DATATYPES[content]]
    if kind == "as_memory_format" and content in _MEMORY_FORMATS:
        return _MEMORY_FORMATS[content]
    if kind == "as_layout" and content == _STRIDED:
        return torch.strided
    if kind == "as_device":
        return torch.device("cpu")
    raise FailedPrecondition(f"the program has an argument {kind} {content!r:.60}, which is not known here")


def _storage(data: bytes) -> torch.Tensor:
    """Copy bytes to where torch may keep them; they may be none."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _weight(weight: Weight, storages: Mapping[str, torch.Tensor]) -> torch.Tensor:
    dtype = _DTYPES[weight.datatype]
    flat = storages[weight.file]
    try:
        return torch.as_strided(flat.view(dtype), weight.sizes, weight.strides, weight.offset)
    except RuntimeError as error:
        raise FailedPrecondition(f"a tensor of the program is not inside {weight.file!r}: {error}") from error


def _array(tensor: torch.Tensor, lent: set[int]) -> Array:
    """Return numpy's view of a result; a copy, if it is of memory that belongs to the caller or to the model."""
    own = tensor.contiguous()
    if own.untyped_storage().data_ptr() in lent:
        own = own.clone()
    if own.dtype == torch.bfloat16:
        bits: Array = own.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = own.numpy()
    return array


def _unrunnable(error: Exception) -> InvalidArgument | ResourceExhausted:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "allocate memory" in text or "out of memory" in text:
        return _no_memory()
    return InvalidArgument(f"the model cannot run these inputs: {text[:300]}")


def _no_memory() -> ResourceExhausted:
    return ResourceExhausted("not enough memory for this request; send fewer rows at a time")
