"""A request fits its model, or is told what does not and what would."""

import numpy as np
import pytest

from headrace.errors import DtypeMismatch, HeadraceError, InvalidArgument, ShapeMismatch
from headrace.inference.tensors import Array
from headrace_inference.core.signature import Signature, Tensor

IMAGE = Tensor("image", "FP32", ("n", 8, 8))
MASK = Tensor("mask", "BOOL", ("n", 8))
LOGITS = Tensor("logits", "FP32", ("n", 10))
LABEL = Tensor("label", "INT64", ("n",))
SIGNATURE = Signature((IMAGE, MASK), (LOGITS, LABEL))


def image(rows: int = 2) -> Array:
    return np.zeros((rows, 8, 8), np.float32)


def mask(rows: int = 2) -> Array:
    return np.zeros((rows, 8), np.bool_)


@pytest.mark.parametrize("rows", [0, 1, 2, 33])
def test_any_number_of_rows_fits(rows: int) -> None:
    SIGNATURE.check_inputs({"mask": mask(rows), "image": image(rows)})


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            {"image": image()},
            InvalidArgument,
            "input 'mask' is missing; its inputs are 'image' FP32 [-1, 8, 8], 'mask'",
        ),
        (
            {"image": image(), "mask": mask(), "x": mask()},
            InvalidArgument,
            "no input 'x'; its inputs are 'image' FP32",
        ),
        (
            {"image": image().astype(np.float64), "mask": mask()},
            DtypeMismatch,
            "'image' is FP64, but the model takes FP32",
        ),
        (
            {"image": image()[0], "mask": mask()},
            ShapeMismatch,
            "shape [8, 8], but the model takes [-1, 8, 8]",
        ),
        (
            {"image": image()[:, :7], "mask": mask()},
            ShapeMismatch,
            "shape [2, 7, 8], but the model takes [-1, 8, 8]",
        ),
        ({"image": image(2), "mask": mask(3)}, ShapeMismatch, "input 'mask' has 3 where input 'image' has 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    inputs: dict[str, Array], error: type[HeadraceError], message: str
) -> None:
    with pytest.raises(error) as raised:
        SIGNATURE.check_inputs(inputs)
    assert message in raised.value.message


def test_without_a_wish_all_outputs_come() -> None:
    assert SIGNATURE.choose_outputs([]) == ("logits", "label")


def test_wished_outputs_come_in_the_wished_order() -> None:
    assert SIGNATURE.choose_outputs(["label", "logits"]) == ("label", "logits")


@pytest.mark.parametrize(
    ("wished", "message"),
    [
        (["logit"], "no output 'logit'; its outputs are 'logits' FP32 [-1, 10], 'label' INT64 [-1]"),
        (["label", "label"], "output 'label' is wished twice"),
    ],
)
def test_outputs_that_cannot_be_given_are_refused(wished: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        SIGNATURE.choose_outputs(wished)
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("inputs", "outputs", "may_batch"),
    [
        ([("n", 2)], [("n", 3)], True),
        ([("", 2)], [("", 3)], True),
        ([("n", "t"), ("n",)], [("n", "t", 5)], True),
        ([(1, 2)], [(1, 3)], False),
        ([("n", 2)], [(3,)], False),
        ([("n", 2)], [()], False),
        ([("n", 2), ("m", 2)], [("n", 3)], False),
        ([("n", 2), (4, 2)], [("n", 3)], False),
        ([("n", "n")], [("n",)], False),
        ([], [("n",)], False),
    ],
)
def test_a_signature_may_batch_when_one_varying_size_leads_everywhere(
    inputs: list[tuple[int | str, ...]], outputs: list[tuple[int | str, ...]], may_batch: bool
) -> None:
    signature = Signature(
        tuple(Tensor(f"i{number}", "FP32", axes) for number, axes in enumerate(inputs)),
        tuple(Tensor(f"o{number}", "FP32", axes) for number, axes in enumerate(outputs)),
    )
    assert signature.may_batch == may_batch
