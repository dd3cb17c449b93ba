"""The best classes of each row instead of all scores."""

import ml_dtypes
import numpy as np
import pytest

from headrace.errors import InvalidArgument
from headrace.inference.tensors import Array
from headrace_inference.core.classification import classify


def texts(classes: Array) -> list[list[str]]:
    return [[text.decode() for text in row] for row in classes]


def test_each_row_gives_its_best_classes_with_value_index_and_label() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3, 1, 2]], np.float32)
    assert texts(classify(scores, 2, ["cat", "dog"], batched=True)) == [
        ["0.700000:1:dog", "0.200000:2"],
        ["3.000000:0:cat", "2.000000:2"],
    ]


def test_more_classes_than_there_are_means_all_of_them() -> None:
    assert classify(np.zeros((2, 3), np.float32), 9, batched=True).shape == (2, 3)


def test_a_row_of_several_axes_is_counted_through() -> None:
    assert texts(classify(np.array([[[1, 5], [2, 3]]]), 1, batched=True)) == [["5:1"]]


def test_without_a_batch_the_whole_output_is_one_row() -> None:
    classes = classify(np.array([[1, 5], [2, 3]]), 2, batched=False)
    assert [text.decode() for text in classes] == ["5:1", "3:3"]


def test_equal_values_stand_in_the_order_of_their_places_and_nan_stands_last() -> None:
    scores = np.array([[1, np.nan, 1, 2]], np.float32)
    assert texts(classify(scores, 4, batched=True)) == [["2.000000:3", "1.000000:0", "1.000000:2", "nan:1"]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int8, np.int64, np.float16, ml_dtypes.bfloat16])
def test_numbers_of_every_type_have_an_order(dtype: type) -> None:
    classes = classify(np.array([[1, 0, 3, 2]]).astype(dtype), 4, batched=True)
    assert [text.split(":")[1] for text in texts(classes)[0]] == ["2", "3", "0", "1"]


def test_the_ends_of_integer_types_are_compared_exactly() -> None:
    ends = np.array([[-(1 << 63), (1 << 63) - 1, (1 << 63) - 2]], np.int64)
    assert [text.split(":")[1] for text in texts(classify(ends, 3, batched=True))[0]] == ["1", "2", "0"]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_an_empty_output_has_no_classes(shape: tuple[int, int]) -> None:
    assert classify(np.zeros(shape, np.float32), 2, batched=True).size == 0


@pytest.mark.parametrize("output", [np.array([[b"a"]], np.object_), np.array([[True]])])
def test_what_has_no_order_has_no_classes(output: Array) -> None:
    with pytest.raises(InvalidArgument, match="classification needs numbers"):
        classify(output, 1, batched=True)
