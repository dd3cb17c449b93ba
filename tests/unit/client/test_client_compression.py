"""Filters as people name them."""

from typing import Any

import pytest

from headrace.client.compression import compression
from headrace.errors import InvalidArgument
from headrace.parameters.encoded import compression_from_proto, compression_to_proto
from headrace.parameters.filters.config import Compression, Significance, TopK
from headrace.parameters.filters.encodings import Encoding


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (("bf16", "none", 0, 0), Compression(Encoding.BFLOAT16)),
        (("fp16", "fp16", 0, 0), Compression(Encoding.FLOAT16, Encoding.FLOAT16)),
        (("none", "int8", 0, 0), Compression(values=Encoding.INT8)),
        (("top-k", "bf16", 0, 0), Compression(TopK(0.01), Encoding.BFLOAT16)),
        (("top-k", "none", 0.25, 0), Compression(TopK(0.25))),
        (("significance", "none", 0, 0), Compression(Significance(2.0))),
        (("significance", "int8", 0, 0.5), Compression(Significance(0.5), Encoding.INT8)),
    ],
)
def test_what_is_asked_for_is_what_a_store_is_told(asked: Any, made: Compression) -> None:
    message = compression(*asked)

    assert message is not None
    assert compression_from_proto(message) == made
    told = compression_to_proto(made)
    assert told is not None
    assert compression_from_proto(told) == made


def test_nothing_is_done_unless_it_is_asked_for() -> None:
    assert compression("none", "none", 0, 0) is None
    assert compression_to_proto(Compression()) is None


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (("zip", "none", 0, 0), "compress_gradients"),
        (("none", "top-k", 0, 0), "compress_values"),
        (("int8", "none", 0.1, 0), "top_k_density"),
        (("top-k", "none", 0, 1.5), "significance_threshold"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        compression(*asked)

    assert refused.value.field == field
