"""Requests of different lengths in one batch: what is shorter is filled up, and the answers are cut back.

Whether a model gives the same for a padded row (because it looks at a mask, say) nobody can see from outside: padding is
declared, never guessed.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.inference.tensors import Array
from headrace_inference.core.signature import Signature, Tensor


def padding_along(
    signature: Signature,
    axis: str,
    *,
    values: Mapping[str, float] | None = None,
    buckets: tuple[int, ...] = (),
    multiple: int = 1,
) -> "Padding":
    """Return the padding along an axis that a model gives a name, wherever its inputs and outputs have it.

    Raises:
        InvalidArgument: No input has an axis of this name after the first, or a value is for none that has.
    """
    inputs, outputs = _positions(signature.inputs, axis), _positions(signature.outputs, axis)
    unknown = [name for name in values or () if name not in inputs]
    if not inputs or unknown:
        names = {name for tensor in signature.inputs for name in tensor.axes[1:] if isinstance(name, str)} - {
            ""
        }
        raise InvalidArgument(
            f"the model cannot be padded along {axis!r}{f' in input {unknown[0]!r}' if unknown else ''}; "
            f"the axes of its inputs that vary and have a name are: {', '.join(sorted(names)) or 'none'}",
            field="padding",
        )
    return Padding(inputs, outputs, values or {}, buckets, multiple)


def _positions(tensors: tuple[Tensor, ...], axis: str) -> dict[str, int]:
    return {tensor.name: tensor.axes.index(axis, 1) for tensor in tensors if axis in tensor.axes[1:]}


@dataclass(frozen=True)
class Padding:
    """The one length that may differ between the requests of a batch.

    Args:
        inputs: For each input that has this length, the position of its axis, >= 1 (0 is that of the rows).
        outputs: For each output that has it, the position of its axis, >= 1.
        values: What an input is filled up with; 0 (an empty element of BYTES) where none is named.
        buckets: Lengths to fill up to, ascending; requests of one bucket run together. What is longer than the last is
            batched with its equals only. Empty: all lengths run together, filled up to the longest.
        multiple: Without buckets, the length of a batch is a multiple of this.
    Raises:
        InvalidArgument: A position, a bucket or the multiple is out of its range.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    buckets: tuple[int, ...] = ()
    multiple: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not self.inputs:
            raise InvalidArgument("padding names no input; name those that have the length", field="padding")
        for name, axis in (*self.inputs.items(), *self.outputs.items()):
            if axis < 1:
                raise InvalidArgument(
                    f"padding of {name!r} is along axis {axis}; it must be 1 or more", field="padding"
                )
        if self.multiple < 1 or list(self.buckets) != sorted({*self.buckets} - {0}):
            raise InvalidArgument(
                f"padding has buckets {list(self.buckets)} and multiple {self.multiple}; "
                "buckets must be ascending and positive, the multiple 1 or more",
                field="padding",
            )

    def length(self, inputs: Mapping[str, Array]) -> int:
        """Return the length of a request, in elements.

        Raises:
            InvalidArgument: Two inputs do not agree on it.
        """
        lengths: dict[str, int] = {name: inputs[name].shape[axis] for name, axis in self.inputs.items()}
        if len(set(lengths.values())) > 1:
            listing = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise InvalidArgument(
                f"inputs that are padded together have different lengths: {listing}", field="inputs"
            )
        return next(iter(lengths.values()))

    def bucket(self, length: int) -> int:
        """Return what lengths that run together have in common: their bucket, their length beyond the last, or 0."""
        if not self.buckets:
            return 0
        place = bisect_left(self.buckets, length)
        return self.buckets[place] if place < len(self.buckets) else length

    def target(self, longest: int) -> int:
        """Return the length to fill a batch up to."""
        return self.bucket(longest) or -(-longest // self.multiple) * self.multiple

    def filled(self, name: str, array: Array, length: int) -> Array:
        """Return an input filled up to `length`; the same one if it is of that length, or not padded at all."""
        axis = self.inputs.get(name)
        if axis is None or array.shape[axis] == length:
            return array
        shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
        fill = b"" if array.dtype == np.object_ else self.values.get(name, 0)
        made = np.full(shape, fill, array.dtype)
        made[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
        return made

    def cut(self, name: str, array: Array, length: int, padded: int) -> Array:
        """Return an output without what belongs to the padding.

        Raises:
            FailedPrecondition: It has another length than the padded inputs: the declaration is wrong.
        """
        axis = self.outputs.get(name)
        if axis is None or length == padded:
            return array
        if array.ndim <= axis or array.shape[axis] != padded:
            raise FailedPrecondition(
                f"output {name!r} has shape {list(array.shape)}, but the padding of the model says that axis {axis} "
                f"has the {padded} elements of the inputs; load the model with the padding that is its own"
            )
        return array[(slice(None),) * axis + (slice(length),)]
