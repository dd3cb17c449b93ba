"""Several requests become one run, padded where the model says so, and each gets its own rows back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import FailedPrecondition, InvalidArgument, ShapeMismatch
from headrace_inference.core.batching import Request
from headrace_inference.core.joining import join, kind_of, split
from headrace_inference.core.padding import Padding, padding_along
from headrace_inference.core.signature import Signature, Tensor
from tests.unit.inference.served_queue import busy, request

TOKENS = Padding(inputs={"ids": 1, "mask": 1}, outputs={"states": 1}, values={"ids": 7}, buckets=(4, 8))


def text(length: int, rows: int = 1) -> Request:
    ids = np.arange(rows * length, dtype=np.int64).reshape(rows, length)
    return Request({"ids": ids, "mask": np.ones((rows, length), np.int64)}, ("states", "pooled"))


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_each_gets_its_own_rows_back(sizes: list[int]) -> None:
    batch = [request(size) for size in sizes]
    joined = join(batch)
    for one, outputs in zip(batch, split({"y": joined.inputs["x"] * 2}, batch), strict=True):
        np.testing.assert_array_equal(outputs["y"], one.inputs["x"] * 2)


def test_each_gets_the_outputs_it_wished() -> None:
    batch = [request(outputs="y"), request(outputs="zy")]
    joined = join(batch)
    assert joined.outputs == ("y", "z")
    first, second = split(dict.fromkeys(joined.outputs, joined.inputs["x"]), batch)
    assert (list(first), list(second)) == (["y"], ["z", "y"])


def test_an_output_without_a_row_for_each_is_noticed() -> None:
    with pytest.raises(ShapeMismatch, match=r"output 'y' has shape \[1\] for 2 rows"):
        split({"y": np.zeros(1)}, [request(), request()])


def test_the_order_of_the_inputs_makes_no_difference() -> None:
    one = text(3)
    other = {name: one.inputs[name] for name in reversed(list(one.inputs))}
    assert kind_of(one.inputs, None) == kind_of(other, None)


@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=6), rows=st.integers(1, 3))
def test_padded_requests_get_their_own_lengths_back(lengths: list[int], rows: int) -> None:
    batch = [text(length, rows) for length in lengths]
    joined = join(batch, TOKENS)
    assert joined.length == (4 if max(lengths) <= 4 else 8)
    assert (joined.inputs["ids"][joined.inputs["mask"] == 0] == 7).all()
    assert joined.elements == 2 * rows * len(batch) * joined.length
    assert joined.padding == joined.elements - 2 * rows * sum(lengths)
    outputs = {"states": joined.inputs["ids"] * 2, "pooled": joined.inputs["mask"].sum(axis=1)}
    for one, answer in zip(batch, split(outputs, batch, TOKENS, joined.length), strict=True):
        np.testing.assert_array_equal(answer["states"], one.inputs["ids"] * 2)
        np.testing.assert_array_equal(answer["pooled"], one.inputs["mask"].sum(axis=1))


def test_requests_of_one_bucket_run_together_and_those_beyond_the_last_with_their_equals() -> None:
    short, middle, longer, long = text(1), text(4), text(9), text(10)
    served = busy(short, middle, longer, long, text(10), padding=TOKENS)
    assert [len(batch) for batch in served.serve()] == [2, 1, 2]


def test_without_buckets_a_batch_is_filled_up_to_its_longest() -> None:
    padding = Padding(inputs={"ids": 1, "mask": 1}, multiple=4)
    batch = [text(3), text(6)]
    assert kind_of(batch[0].inputs, padding) == kind_of(batch[1].inputs, padding)
    assert join(batch, padding).inputs["ids"].shape == (2, 8)


def test_padding_of_bytes_is_empty() -> None:
    words = Request({"w": np.array([[b"a"]], np.object_)}, ("y",))
    joined = join([words], Padding(inputs={"w": 1}, multiple=2))
    assert joined.inputs["w"].tolist() == [[b"a", b""]]


def test_inputs_that_do_not_agree_on_the_length_are_refused_before_they_wait() -> None:
    wrong = text(3)
    wrong.inputs = {**wrong.inputs, "mask": np.ones((1, 2), np.int64)}
    served = busy(padding=TOKENS)
    with pytest.raises(InvalidArgument, match="'ids' 3, 'mask' 2"):
        served.offer(wrong)
    assert served.queue.waiting == 0


def test_a_padding_that_is_not_the_models_is_told() -> None:
    with pytest.raises(FailedPrecondition, match=r"output 'states' has shape \[1, 3\]"):
        split({"states": np.zeros((1, 3)), "pooled": np.zeros(1)}, [text(2)], TOKENS, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"inputs": {}},
        {"inputs": {"x": 0}},
        {"inputs": {"x": 1}, "multiple": 0},
        {"inputs": {"x": 1}, "buckets": (8, 4)},
        {"inputs": {"x": 1}, "buckets": (0, 4)},
    ],
)
def test_padding_that_makes_no_sense_is_refused(settings: dict[str, dict[str, int]]) -> None:
    with pytest.raises(InvalidArgument):
        Padding(**settings)  # type: ignore[arg-type]  # the wrong values are the point


BERT = Signature(
    (
        Tensor("ids", "INT64", ("n", "seq")),
        Tensor("mask", "INT64", ("n", "seq")),
        Tensor("k", "INT64", ("n",)),
    ),
    (Tensor("states", "FP32", ("n", 2, "seq")), Tensor("pooled", "FP32", ("n", 2))),
)


def test_padding_goes_along_an_axis_wherever_the_model_has_it() -> None:
    padding = padding_along(BERT, "seq", values={"ids": 7}, buckets=(4,))
    assert padding == Padding({"ids": 1, "mask": 1}, {"states": 2}, {"ids": 7}, (4,))


@pytest.mark.parametrize(("axis", "values"), [("length", {}), ("n", {}), ("seq", {"k": 1.0})])
def test_padding_along_an_axis_that_the_model_does_not_have_is_refused(
    axis: str, values: dict[str, float]
) -> None:
    with pytest.raises(InvalidArgument, match="vary and have a name are: seq"):
        padding_along(BERT, axis, values=values)
