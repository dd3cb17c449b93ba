"""LAMB against a plain implementation on whole tensors, in float64 and without a thought of speed."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidArgument
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import Lamb
from headrace_optimizers.lamb import LambOptimizer, trust_ratio
from headrace_optimizers.making import optimizer_for

LAYOUT = FlatLayout((TensorSpec("weight", (30, 40)), TensorSpec("zeros", (17,)), TensorSpec("scale", ())))
CONFIG = Lamb(0.01, beta1=0.8, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
STEPS = 12

Vector = npt.NDArray[np.float64]


def start(layout: FlatLayout = LAYOUT) -> Floats:
    values = np.random.default_rng(0).normal(size=layout.size).astype(np.float32)
    if "zeros" in (views := layout.views(values)):
        views["zeros"][...] = 0  # as biases begin: there is no norm to scale by
    return values


def gradient(step: int, layout: FlatLayout = LAYOUT) -> Floats:
    return np.random.default_rng(step + 1).normal(size=layout.size).astype(np.float32)


def reference(
    config: Lamb, factors: Sequence[float], layout: FlatLayout = LAYOUT, weight: float = 1.0
) -> Vector:
    """Algorithm 2 of the paper, tensor by tensor."""
    x = {name: view.astype(np.float64) for name, view in layout.views(start(layout)).items()}
    m, v = ({name: np.zeros_like(tensor) for name, tensor in x.items()} for _ in range(2))
    for step, factor in enumerate(factors):
        for name, view in layout.views(gradient(step, layout)).items():
            g = view.astype(np.float64) * weight
            m[name] = config.beta1 * m[name] + (1 - config.beta1) * g
            v[name] = config.beta2 * v[name] + (1 - config.beta2) * g**2
            m_hat, v_hat = (
                m[name] / (1 - config.beta1 ** (step + 1)),
                v[name] / (1 - config.beta2 ** (step + 1)),
            )
            u = m_hat / (np.sqrt(v_hat) + config.epsilon) + config.weight_decay * x[name]
            norms = float(np.linalg.norm(x[name])), float(np.linalg.norm(u))
            ratio = norms[0] / norms[1] if all(norms) else 1.0
            x[name] = x[name] - config.learning_rate * factor * ratio * u
    return np.concatenate([tensor.ravel() for tensor in x.values()])


def parts_of(cuts: Sequence[int], config: Lamb = CONFIG, layout: FlatLayout = LAYOUT) -> list[LambOptimizer]:
    return [LambOptimizer(config, layout, [range(*held)]) for held in pairwise([0, *cuts, layout.size])]


def train(optimizers: Sequence[LambOptimizer], cuts: Sequence[int], layout: FlatLayout = LAYOUT) -> Floats:
    """Let parts of the vector add up their norms, then take the step."""
    values = [torch.from_numpy(part) for part in np.split(start(layout), cuts)]
    for step in range(STEPS):
        gradients = [[(torch.from_numpy(part), 1.0)] for part in np.split(gradient(step, layout), cuts)]
        each = zip(optimizers, values, gradients, strict=True)
        norms = [sum(norm) for norm in zip(*(it.squared_norms(x, g) for it, x, g in each), strict=True)]
        each = zip(optimizers, values, gradients, strict=True)
        values = [it.apply(x, g, squared_norms=norms) for it, x, g in each]
    return np.concatenate([part.numpy() for part in values])


@pytest.mark.parametrize("config", [CONFIG, Lamb(0.01)], ids=["decay", "defaults"])
def test_a_whole_vector_is_updated_as_the_paper_says(config: Lamb) -> None:
    optimizer = optimizer_for(config, LAYOUT, [range(LAYOUT.size)])
    factors = [1 / (1 + step) for step in range(STEPS)]

    values = torch.from_numpy(start())
    for step, factor in enumerate(factors):
        values = optimizer.apply(values, [(torch.from_numpy(gradient(step)), 1.0)], factor)

    np.testing.assert_allclose(values.numpy(), reference(config, factors), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cuts", [[600], [1, 2], [300, 1205, 1216], [1200, 1217], [0, 1218]], ids=str)
def test_parts_that_add_up_their_norms_are_one_vector(cuts: list[int]) -> None:
    """Tensors are cut in the middle, in several places, at their ends; parts are empty."""
    values = train(parts_of(cuts), cuts)

    np.testing.assert_allclose(values, reference(CONFIG, [1.0] * STEPS), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(values, train(parts_of([]), []), rtol=2e-7, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_however_a_vector_is_cut_it_is_one_vector(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=5))
    layout = FlatLayout(tuple(TensorSpec(f"t{index}", (size,)) for index, size in enumerate(shapes)))
    cuts = sorted(data.draw(st.lists(st.integers(0, layout.size), max_size=4)))

    one, many = (
        train(parts_of([], layout=layout), [], layout),
        train(parts_of(cuts, layout=layout), cuts, layout),
    )

    np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-7)


def test_asking_for_norms_changes_nothing() -> None:
    asked, other = parts_of([])[0], parts_of([])[0]
    values, push = torch.from_numpy(start()), [(torch.from_numpy(gradient(0)), 1.0)]

    norms = asked.squared_norms(values, push)

    assert norms == asked.squared_norms(values, push)
    assert torch.equal(asked.apply(values, push), other.apply(values, push))


def test_a_weighted_gradient_counts_by_its_weight() -> None:
    (optimizer,) = parts_of([])

    values = optimizer.apply(torch.from_numpy(start()), [(torch.from_numpy(gradient(0)), 0.25)])

    np.testing.assert_allclose(values.numpy(), reference(CONFIG, [1.0], weight=0.25), rtol=1e-6, atol=1e-6)


def test_a_state_that_is_loaded_goes_on_as_it_would_have() -> None:
    (first,), (second,) = parts_of([]), parts_of([])
    values = torch.from_numpy(start())
    for step in range(3):
        values = first.apply(values, [(torch.from_numpy(gradient(step)), 1.0)])

    second.load(first.state())
    push = [(torch.from_numpy(gradient(3)), 1.0)]

    assert torch.equal(first.apply(values, push), second.apply(values, push))
    assert sorted(first.state()) == ["exp_avg", "exp_avg_sq", "step"]


@pytest.mark.parametrize(("values", "update"), [(0.0, 4.0), (4.0, 0.0), (0.0, 0.0)])
def test_a_tensor_without_a_norm_is_not_scaled(values: float, update: float) -> None:
    assert trust_ratio(values, update) == 1
    assert trust_ratio(9.0, 4.0) == 1.5


def test_settings_name_their_field() -> None:
    with pytest.raises(InvalidArgument) as refused:
        Lamb(0.1, beta1=1)

    assert refused.value.field == "optimizer.lamb.beta1"
