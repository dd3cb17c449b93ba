"""A Python function of an installed package as a model, where the operator allows it; nothing is imported before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.errors import FailedPrecondition, InvalidArgument, ProgramNotAllowed, ResourceExhausted
from headrace.inference.tensors import Array, datatype_of
from headrace.program.loading import is_allowed, load_object
from headrace_inference.core.batching import Arrays
from headrace_inference.core.config import ModelConfig
from headrace_inference.core.signature import Signature, Tensor


class _Function:
    """A function that the operator allows, and what it is declared to take and give."""

    def __init__(self, config: ModelConfig, allowed: Sequence[str]) -> None:
        module = config.function.partition(":")[0]
        if not is_allowed(module, allowed):
            raise ProgramNotAllowed(
                f"functions of module {module!r} may not run on this server, only those of: {', '.join(allowed) or 'none'}; "
                "ask the operator to add it to ALLOWED_FUNCTIONS",
                metadata={"module": module},
            )
        if config.signature is None or not config.signature.inputs or not config.signature.outputs:
            raise FailedPrecondition(
                "a model that is a Python function declares its input and output in its configuration"
            )
        self.signature: Signature = config.signature
        self._made: Callable[[Arrays], Any] | None = _made(config)

    def _call(self, inputs: Arrays) -> Any:
        if self._made is None:
            raise FailedPrecondition("the model is unloaded; load it again")
        with _errors_of_the_model():
            return self._made(inputs)

    def _wished(self, given: Mapping[str, Array], outputs: Sequence[str]) -> Arrays:
        tensors = {tensor.name: tensor for tensor in self.signature.outputs}
        return {name: _checked(tensors[name], given) for name in outputs}

    def close(self) -> None:
        """Forget the function."""
        self._made = None


class PythonStream(_Function):
    """Calls a generator function, each of whose mappings is one answer: a model that gives any number of them.

    Args and errors are those of `PythonRunner`.
    """

    def answers(self, inputs: Arrays, outputs: Sequence[str]) -> Iterator[Arrays]:
        """Yield the wished outputs as often as the function gives them; it is closed when nobody waits any more."""
        stream = iter(self._call(inputs))
        try:
            while (given := _next(stream)) is not None:
                yield self._wished(given, outputs)
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()


class PythonRunner(_Function):
    """Calls a function: a mapping of arrays in, by the names of the inputs, and one out, by the names of the outputs.

    The function is called by several threads at a time if the model has several workers, and must neither write to its inputs nor
    keep what it has returned. A ValueError says that it cannot run these values, a MemoryError that there is no memory.

    Args:
        config: Names the function, and declares its inputs and outputs.
        allowed: Modules and packages whose functions may run.
    Raises:
        ProgramNotAllowed: It is of none of them.
        FailedPrecondition: There is no such function, or its inputs and outputs are not declared.
    """

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs."""
        return self._wished(self._call(inputs), outputs)


@contextmanager
def _errors_of_the_model() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidArgument(f"the model cannot run these inputs: {str(error)[:300]}") from error
    except MemoryError as error:
        raise ResourceExhausted("not enough memory for this request; send fewer rows at a time") from error


def _next(stream: Iterator[Mapping[str, Array]]) -> Mapping[str, Array] | None:
    """Return what a stream gives next, None at its end."""
    with _errors_of_the_model():
        return next(stream, None)


def _made(config: ModelConfig) -> Callable[[Arrays], Any]:
    try:
        function = load_object(config.function, config.function_config)
    except InvalidArgument as error:
        raise FailedPrecondition(error.message) from error
    if not callable(function):
        raise FailedPrecondition(
            f"{config.function} is not callable; name a class of callables, or a function that makes one"
        )
    return function


def _checked(tensor: Tensor, given: Mapping[str, Array]) -> Array:
    """Return an output that is what the signature says, in memory of its own."""
    array = given.get(tensor.name)
    if not isinstance(array, np.ndarray):
        raise FailedPrecondition(
            f"the model's function gives {type(array).__name__} for output {tensor.name!r}; it must give an array"
        )
    fits = array.ndim == len(tensor.axes) and all(
        size in (wanted, -1) or wanted == -1 for size, wanted in zip(array.shape, tensor.shape, strict=True)
    )
    if datatype_of(array.dtype) != tensor.datatype or not fits:
        raise FailedPrecondition(
            f"the model's function gives {datatype_of(array.dtype)} {list(array.shape)} for output {tensor.name!r}, "
            f"which is declared as {tensor}"
        )
    return array if array.flags.owndata else array.copy()
