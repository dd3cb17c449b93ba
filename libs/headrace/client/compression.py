"""What is done to gradients and values on slow links, as people say it."""

from __future__ import annotations

from typing import Literal, TypedDict

from headrace.client.choices import choose
from headrace.errors import InvalidArgument
from headrace.parameters.v1 import compression_pb2 as wire

GradientFilter = Literal["none", "bf16", "fp16", "int8", "top-k", "significance"]
ValueFilter = Literal["none", "bf16", "fp16", "int8"]

_ENCODINGS = {
    "none": wire.ENCODING_UNSPECIFIED,
    "bf16": wire.ENCODING_BFLOAT16,
    "fp16": wire.ENCODING_FLOAT16,
    "int8": wire.ENCODING_INT8,
}
_GRADIENTS = _ENCODINGS | {"top-k": wire.ENCODING_SPARSE, "significance": wire.ENCODING_SPARSE}


class CompressionOptions(TypedDict, total=False):
    """What is done to what travels by streams; with a parameter server alone."""

    compress_gradients: GradientFilter  # "none"
    compress_values: ValueFilter  # "none"
    top_k_density: float  # 0: 0.01; "top-k" alone: part of the values that is sent
    significance_threshold: float  # 0: 2; "significance" alone: in root mean squares of the gradient


def compression(
    gradients: GradientFilter, values: ValueFilter, top_k_density: float, significance_threshold: float
) -> wire.Compression | None:
    """Return what is done; None: nothing.

    Raises:
        InvalidArgument: A filter is unknown, or a number does not go with it.
    """
    encoding = choose("compress_gradients", gradients, _GRADIENTS)
    made = wire.Compression(value_encoding=choose("compress_values", values, _ENCODINGS))
    for name, number, kind in (
        ("top_k_density", top_k_density, "top-k"),
        ("significance_threshold", significance_threshold, "significance"),
    ):
        if number and gradients != kind:
            raise InvalidArgument(
                f"{name} {number} is for compress_gradients {kind!r}; leave it out with {gradients!r}",
                field=name,
            )
    if gradients == "top-k":
        made.top_k.density = top_k_density
    elif gradients == "significance":
        made.significance.threshold = significance_threshold
    elif gradients != "none":
        made.gradient_encoding = encoding
    return made if made.ByteSize() or gradients != "none" else None
