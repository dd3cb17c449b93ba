"""A graph of models fits together before its first request comes, or it is refused."""

import pytest

from headrace.errors import FailedPrecondition
from headrace_inference.core.ensemble import Step, in_order
from headrace_inference.core.signature import Signature, Tensor

ROWS = ("n", 3)


def tensor(name: str, datatype: str = "FP32", axes: tuple[int | str, ...] = ROWS) -> Tensor:
    return Tensor(name, datatype, axes)


ONE_TO_ONE = Signature((tensor("x"),), (tensor("y"),))
TWO_TO_ONE = Signature((tensor("a"), tensor("b")), (tensor("y"),))
WHOLE = Signature((tensor("in"),), (tensor("out"),))


def step(model: str, takes: dict[str, str], gives: dict[str, str]) -> Step:
    return Step(model, "", takes, gives)


def test_steps_come_in_stages_whatever_their_order() -> None:
    """A diamond: first feeds left and right, which feed last."""
    steps = [
        step("last", {"a": "l", "b": "r"}, {"y": "out"}),
        step("right", {"x": "f"}, {"y": "r"}),
        step("left", {"x": "f"}, {"y": "l"}),
        step("first", {"x": "in"}, {"y": "f"}),
    ]
    assert in_order(WHOLE, steps, [TWO_TO_ONE, ONE_TO_ONE, ONE_TO_ONE, ONE_TO_ONE]) == [[3], [1, 2], [0]]


def test_a_step_may_take_one_tensor_twice_and_an_input_may_be_an_output() -> None:
    whole = Signature((tensor("in"),), (tensor("out"), tensor("in")))
    assert in_order(whole, [step("sum", {"a": "in", "b": "in"}, {"y": "out"})], [TWO_TO_ONE]) == [[0]]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("m", {"x": "in"}, {"y": "t"})], "output 'out' of the ensemble needs tensor 'out', which nothing makes"),
        ([step("m", {"x": "t"}, {"y": "out"})], "input 'x' of step 'm' needs tensor 't', which nothing makes"),
        ([step("m", {"x": "in"}, {"y": "in"})], "'in' is made by the ensemble's input and again by step 'm'"),
        ([step("m", {"x": "in"}, {"y": "out"}), step("n", {"x": "in"}, {"y": "out"})], "'out' is made by step 'm' and again by step 'n'"),
        ([step("m", {"z": "in"}, {"y": "out"})], "input_map of step 'm' names 'z'; its inputs are x"),
        ([step("m", {}, {"y": "out"})], "input_map of step 'm' leaves out 'x'"),
        ([step("m", {"x": "in"}, {"z": "out"})], "output_map of step 'm' names 'z'; its outputs are y"),
        ([step("m", {"x": "in"}, {})], "output_map of step 'm' is empty"),
        ([step("m", {"x": "b"}, {"y": "a"}), step("n", {"x": "a"}, {"y": "b"}), step("o", {"x": "in"}, {"y": "out"})], "the steps 'm', 'n' wait for each other"),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_hold_together_is_refused(steps: list[Step], message: str) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        in_order(WHOLE, steps, [ONE_TO_ONE] * len(steps))


@pytest.mark.parametrize(
    "fed", [tensor("x", "FP64"), tensor("x", axes=("n", 4)), tensor("x", axes=("n",))], ids=str
)
def test_types_and_shapes_fit_from_one_step_to_the_next(fed: Tensor) -> None:
    steps = [step("m", {"x": "in"}, {"y": "t"}), step("n", {"x": "t"}, {"y": "out"})]
    with pytest.raises(
        FailedPrecondition, match=r"input 'x' of step 'n' is .*, but tensor 't' of step 'm' is FP32"
    ):
        in_order(WHOLE, steps, [ONE_TO_ONE, Signature((fed,), (tensor("y"),))])
