import numpy as np
import pytest

from headrace.errors import InvalidArgument, ShapeMismatch
from headrace.parameters.layout import FlatLayout, TensorSpec

LAYOUT = FlatLayout((TensorSpec("a", (2, 3)), TensorSpec("b", ()), TensorSpec("c", (2,))))


def test_views_share_the_memory_of_the_flat_vector() -> None:
    flat = np.arange(9, dtype=np.float32)

    views = LAYOUT.views(flat)
    flat[6] = 42

    assert {name: view.shape for name, view in views.items()} == {"a": (2, 3), "b": (), "c": (2,)}
    assert views["b"] == 42
    assert views["a"][1, 2] == 5


def test_what_was_flattened_comes_back_by_name() -> None:
    tensors = {name: view.copy() for name, view in LAYOUT.views(np.arange(9, dtype=np.float32)).items()}

    assert FlatLayout.of(tensors) == LAYOUT
    assert LAYOUT.flatten(tensors).tolist() == list(range(9))


def test_ranges_of_neighbours_are_one() -> None:
    assert LAYOUT.ranges(["b", "a"]) == [range(7)]
    assert LAYOUT.ranges(["c", "a"]) == [range(6), range(7, 9)]
    assert LAYOUT.ranges() == [range(9)]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((), "needs one tensor"),
        ((TensorSpec("", (1,)),), "each with a name"),
        ((TensorSpec("a", (1,)), TensorSpec("a", (2,))), "'a' is named twice"),
        ((TensorSpec("a", (2, 0)),), "has shape \\[2, 0\\]; every dimension must be 1 to 1099511627776"),
        ((TensorSpec("a", (1 << 62,)),), "every dimension must be 1 to"),
        ((TensorSpec("a", (1 << 40,) * 100_000),), "tensor 'a' has 100000 dimensions; at most 64 are taken"),
        ((TensorSpec("a", (-1,)),), "every dimension"),
        ((TensorSpec("a", (1 << 30, 1 << 30)),), "a model may have"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tensors: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        FlatLayout(tensors)


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(InvalidArgument, match="no tensor 'd'"):
        LAYOUT.ranges(["a", "d"])


def test_flatten_refuses_another_shape() -> None:
    with pytest.raises(ShapeMismatch, match=r"tensor 'b' has shape \[1\]; it must have shape \[\]"):
        LAYOUT.flatten({"a": np.zeros((2, 3)), "b": np.zeros(1), "c": np.zeros(2)})
    with pytest.raises(ShapeMismatch, match="tensor 'b' is missing"):
        LAYOUT.flatten({"a": np.zeros((2, 3))})
