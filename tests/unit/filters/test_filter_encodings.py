"""Values in fewer bits: how far they may be off, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.errors import NonFiniteValues, ShapeMismatch
from headrace.parameters.filters.encodings import BLOCK, CODECS, SMALLEST_INT8, Encoding, decode
from headrace.parameters.layout import Floats

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = st.floats(-60000, 60000, width=32)


def vectors(elements: st.SearchStrategy[float] = FLOATS) -> st.SearchStrategy[Floats]:
    return arrays.arrays(np.float32, st.integers(0, 3 * BLOCK), elements=elements)


def through(encoding: Encoding, values: Floats) -> Floats:
    data = CODECS[encoding].encode(values)
    assert data.nbytes == CODECS[encoding].size(values.size)
    out = np.full(values.size, np.nan, np.float32)
    decode(encoding, data.tobytes(), out)
    return out


@given(vectors())
def test_float32_is_exact(values: Floats) -> None:
    assert through(Encoding.FLOAT32, values).tobytes() == values.tobytes()


@given(vectors(st.floats(width=32)))
def test_bf16_is_what_torch_makes_of_it(values: Floats) -> None:
    """Halves to even, overflow to infinity; a NaN stays one."""
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()

    np.testing.assert_array_equal(through(Encoding.BFLOAT16, values), expected)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001])
def test_every_nan_stays_a_nan_in_bf16(bits: int) -> None:
    values = np.array([bits, 0], np.uint32).view(np.float32)

    assert np.isnan(through(Encoding.BFLOAT16, values)).tolist() == [True, False]


@given(vectors(st.floats(-(2.0**126), 2.0**126, width=32)))
def test_bf16_keeps_8_bits(values: Floats) -> None:
    error = np.abs(through(Encoding.BFLOAT16, values).astype(np.float64) - values)

    assert (error <= np.abs(values.astype(np.float64)) * 2**-8 + 1e-40).all()


@given(vectors(SMALL))
def test_fp16_keeps_11_bits_of_what_is_not_tiny(values: Floats) -> None:
    error = np.abs(through(Encoding.FLOAT16, values) - values)

    assert (error <= np.maximum(np.abs(values) * 2**-11, 2**-25)).all()


@pytest.mark.parametrize("value", [65520.0, -1e30, np.inf, np.nan])
def test_what_does_not_fit_into_fp16_is_refused(value: float) -> None:
    with pytest.raises(NonFiniteValues, match="does not fit into fp16, which ends at 65504; choose bf16"):
        CODECS[Encoding.FLOAT16].encode(np.array([1, value, 2], np.float32))


@given(vectors())
def test_int8_is_off_by_a_254th_of_the_largest_value_of_its_block(values: Floats) -> None:
    error = np.abs(through(Encoding.INT8, values).astype(np.float64) - values)

    for start in range(0, values.size, BLOCK):
        largest = float(np.abs(values[start : start + BLOCK]).max())
        bound = max(largest / 254 * (1 + 1e-5), SMALLEST_INT8)
        assert error[start : start + BLOCK].max() <= bound


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_become_finite(bad: float) -> None:
    """The service refuses it then, whatever the encoding."""
    values = np.ones(2 * BLOCK + 3, np.float32)
    values[BLOCK + 5] = bad

    for encoding in (Encoding.FLOAT32, Encoding.BFLOAT16, Encoding.INT8):
        decoded = through(encoding, values)
        assert not np.isfinite(decoded[BLOCK + 5])
        assert np.isfinite(decoded[:BLOCK]).all()


@pytest.mark.parametrize("encoding", CODECS)
def test_too_few_or_too_many_bytes_are_refused(encoding: Encoding) -> None:
    data = CODECS[encoding].encode(np.ones(300, np.float32)).tobytes()

    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(ShapeMismatch, match=r"300 values in .* bytes; .* were sent"):
            decode(encoding, wrong, np.empty(300, np.float32))


def test_int8_takes_about_a_quarter() -> None:
    assert CODECS[Encoding.INT8].size(1 << 18) / (4 << 18) == pytest.approx(0.2539, abs=1e-4)
