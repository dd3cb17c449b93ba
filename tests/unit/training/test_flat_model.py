"""A model in one vector."""

import numpy as np
import torch

from headrace_training.core.flat_model import FlatModel


def test_a_flat_model_computes_on_its_vector_and_adds_gradients_to_the_other() -> None:
    linear = torch.nn.Linear(2, 1)
    weight = linear.weight.detach().clone()
    model = FlatModel(torch.nn.Sequential(linear, torch.nn.BatchNorm1d(1)))
    np.testing.assert_array_equal(model.values[:2], weight.numpy().ravel())
    model.values[:] = torch.tensor([2.0, 3, 1, 1, 0])  # weight, bias, scale and shift of the norm
    assert linear(torch.ones(1, 2)).item() == 6
    torch.autograd.backward(linear(torch.ones(1, 2)).sum())
    np.testing.assert_array_equal(model.gradient[:3], [1, 1, 1])
    assert "1.running_mean" in model.state()


def test_a_frozen_parameter_is_saved_but_does_not_travel() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1))
    module[0].requires_grad_(requires_grad=False)
    model = FlatModel(module)
    assert [tensor.name for tensor in model.layout.tensors] == ["1.weight", "1.bias"]
    assert set(model.state()) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_the_norm_of_the_gradient_is_that_of_the_whole_vector() -> None:
    model = FlatModel(torch.nn.Linear(2, 1))
    model.gradient[:] = torch.tensor([3.0, 4, 12])
    assert model.gradient_norm() == 13


def test_a_gradient_that_is_large_but_finite_is_no_mistake() -> None:
    """Its squares overflow, so the norm is infinite, and the tensors are looked at one by one."""
    model = FlatModel(torch.nn.Linear(2, 1))
    model.gradient[:] = torch.tensor([1e30, 1e30, 0])
    assert model.gradient_norm() == np.inf
    assert model.non_finite_gradient() == ""
    model.gradient[2] = float("nan")
    assert model.non_finite_gradient() == "bias"
