"""How much of the machine a rank uses, compared with sums on paper."""

import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from headrace.testing import FakeClock
from headrace_training.core.blocks import checkpoint_activations
from headrace_training.core.flops import FlopMeter, measured_peak

SAMPLES, WIDE, OUT = 8, 32, 4


def test_the_flops_of_a_linear_layer_are_six_for_each_weight_and_sample() -> None:
    """Two each forward, for the gradient of the weights, and for that of the input: 6 N, as PaLM has it."""
    hidden, out = torch.nn.Linear(WIDE, WIDE), torch.nn.Linear(WIDE, OUT)
    meter = FlopMeter(peak=1e9)
    with meter.counting(SAMPLES):
        torch.autograd.backward(out(hidden(torch.ones(SAMPLES, WIDE))).sum())
    first_has_no_gradient_of_its_input = 2 * WIDE * WIDE
    assert meter.per_sample == 6 * (WIDE * WIDE + WIDE * OUT) - first_has_no_gradient_of_its_input
    assert meter.metrics(1000.0) == {"mfu": pytest.approx(1000 * meter.per_sample / 1e9)}


def test_micro_batches_are_counted_together_and_only_the_first_step_is() -> None:
    layer, meter = torch.nn.Linear(WIDE, OUT), FlopMeter(peak=1e9)
    for _ in range(2):
        with meter.counting(SAMPLES):
            for part in torch.split(torch.ones(SAMPLES, WIDE), 2):
                torch.autograd.backward(layer(part).sum())
    assert meter.per_sample == 4 * WIDE * OUT


def test_to_count_does_not_import_the_compiler() -> None:
    """In a process of its own: other tests compile."""
    code = (
        "import sys, torch\n"
        "from headrace_training.core.flops import FlopMeter\n"
        "with FlopMeter(peak=1e9).counting(1):\n"
        "    torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


class Attending(torch.nn.Module):
    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_convolutions_and_attention_count() -> None:
    convolution, meter = torch.nn.Conv2d(3, 5, 3), FlopMeter(peak=1e9)
    with meter.counting(1), torch.no_grad():
        convolution(torch.ones(1, 3, 6, 6))
    assert meter.per_sample == 2 * (3 * 3 * 3) * 5 * (4 * 4)
    attention = FlopMeter(peak=1e9)
    with attention.counting(1):
        heads = torch.ones(1, 2, 7, 8, requires_grad=True)
        torch.autograd.backward(torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).sum())
    assert attention.per_sample == 3 * 2 * (2 * 7 * 7 * 8) * 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_does_not_count(reentrant: bool) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(WIDE, WIDE), torch.nn.Tanh(), torch.nn.Linear(WIDE, OUT))
    rows, plain, again = torch.ones(SAMPLES, WIDE, requires_grad=True), FlopMeter(1e9), FlopMeter(1e9)
    with plain.counting(SAMPLES):
        torch.autograd.backward(layers(rows).sum())
    with again.counting(SAMPLES):
        torch.autograd.backward(checkpoint(layers, rows, use_reentrant=reentrant).sum())
    assert again.per_sample == plain.per_sample == 6 * (WIDE * WIDE + WIDE * OUT)


def test_a_model_whose_blocks_compute_again_has_the_utilization_of_one_that_keeps_them() -> None:
    attended, heads = Attending(), torch.ones(1, 2, 7, 8, requires_grad=True)
    plain, again = FlopMeter(1e9), FlopMeter(1e9)
    with plain.counting(1):
        torch.autograd.backward(attended(heads).sum())
    checkpoint_activations(attended)
    with again.counting(1):
        torch.autograd.backward(attended(heads).sum())
    assert again.per_sample == plain.per_sample == 3 * 2 * (2 * 7 * 7 * 8) * 2


def test_a_penalty_on_gradients_counts() -> None:
    """The gradient of the input is part of the model then: a product, with two for its own gradients."""
    layer, meter = torch.nn.Linear(WIDE, OUT, bias=False), FlopMeter(1e9)
    rows = torch.ones(SAMPLES, WIDE, requires_grad=True)
    with meter.counting(SAMPLES):
        (slope,) = torch.autograd.grad(layer(rows).square().sum(), rows, create_graph=True)
        torch.autograd.backward(slope.square().sum(), inputs=[layer.weight])
    forward, slopes, of_slopes, of_outputs = 1, 1, 2, 1
    assert meter.per_sample == 2 * WIDE * OUT * (forward + slopes + of_slopes + of_outputs)


@pytest.mark.parametrize(("peak", "samples_per_s"), [(0.0, 10.0), (1e9, 0.0)])
def test_what_is_not_known_is_not_told(peak: float, samples_per_s: float) -> None:
    meter = FlopMeter(peak)
    with meter.counting(1):
        torch.nn.Linear(WIDE, OUT)(torch.ones(1, WIDE))
    assert meter.metrics(samples_per_s) == {}


def test_a_model_without_products_has_no_utilization() -> None:
    meter = FlopMeter(1e9)
    with meter.counting(1):
        torch.ones(3).exp()
    assert meter.metrics(10.0) == {}


def test_the_peak_is_that_of_the_quickest_product() -> None:
    clock = FakeClock()
    times = iter([0.0, 0.0, 0.5, 0.5, 0.75, 0.75, 1.75])

    def tick() -> float:
        return next(times, clock.now)

    assert measured_peak(1.0, tick, bf16=False) == 2 * 1024**3 / 0.25
