"""A model has run before its first caller comes."""

from collections.abc import Sequence

from headrace.errors import InvalidArgument
from headrace_inference.core.batching import Arrays
from headrace_inference.core.signature import Signature, Tensor
from headrace_inference.core.trial import SIZES, WARM_RUNS, WARM_S, warm_up

SIGNATURE = Signature((Tensor("x", "FP32", ("n", "m")),), (Tensor("y", "FP32", ("n", "m")),))


class Recording:
    """Notes the shapes of its runs, each of which takes a while; dislikes inputs that are too narrow."""

    def __init__(self, run_s: float = 0.0, narrowest: int = 0) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.now = 0.0
        self._run_s = run_s
        self._narrowest = narrowest

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        x = inputs["x"]
        if x.shape[1] < self._narrowest:
            raise InvalidArgument("the model cannot run these inputs: too narrow")
        self.shapes.append(x.shape)
        self.now += self._run_s
        return dict.fromkeys(outputs, x)

    def warm_up(self, *rows: int) -> int:
        return warm_up(self, SIGNATURE, rows, lambda: self.now)


def test_the_smallest_and_the_largest_batch_run_often_enough() -> None:
    runner = Recording()
    assert runner.warm_up(1, 32) == 2 * WARM_RUNS
    assert runner.shapes == [(1, SIZES[0])] * WARM_RUNS + [(32, SIZES[0])] * WARM_RUNS


def test_a_slow_model_is_not_waited_for_longer_than_that() -> None:
    assert Recording(run_s=WARM_S / 3).warm_up(1, 32) == 3


def test_another_size_is_tried_for_a_model_that_dislikes_the_first() -> None:
    runner = Recording(narrowest=SIZES[1])
    runner.warm_up(1)
    assert set(runner.shapes) == {(1, SIZES[1])}


def test_a_model_that_dislikes_all_is_left_alone() -> None:
    assert Recording(narrowest=10_000).warm_up(1, 32) == 0
