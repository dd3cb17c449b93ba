"""A rank on a device of its own, and what passes between that and the host. Nothing here needs a GPU."""

import numpy as np
import pytest
import torch

from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.testing import FakeClock
from headrace_optimizers.config import Adam, AdamW
from headrace_optimizers.making import optimizer_for
from headrace_training.core.device import HOST, Device
from headrace_training.core.examples import as_batch
from headrace_training.core.flat_model import FlatModel
from headrace_training.core.mirror import Mirror, MirroredEarly
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from tests.unit.training.apart import Apart
from tests.unit.training.lockstep_store import LockstepStore, Pulled
from tests.unit.training.small_program import Small
from tests.unit.training.test_training_ranks import Heard, adamw

RUN = Run(steps=6, batch_size=16, seed=3, accumulate=2, evaluate_every=3)


class Sent:
    """An `Early` that looks at the memory it was told of at that moment."""

    def __init__(self, memory: Floats) -> None:
        self._memory, self.values = memory, np.full(memory.size, np.nan, np.float32)
        self.cancelled = False

    @property
    def share_sent(self) -> float:
        return float(np.isfinite(self.values).mean())

    def ready(self, part: range) -> None:
        place = slice(part.start, part.stop)
        self.values[place] = self._memory[place]

    def cancel(self) -> None:
        self.cancelled = True


class EarlyStore(LockstepStore):
    """Takes gradients while they are computed, and compares them with the whole."""

    early: Sent | None = None

    def begin_push_pull(self, step: int, gradient: Floats, samples: float) -> Sent:  # type: ignore[override]  # the other takes none
        self.early = Sent(gradient)
        return self.early

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats) -> Pulled:
        early, self.early = self.early, None
        if early:
            there = np.isfinite(early.values)
            np.testing.assert_array_equal(early.values[there], gradient[there])
        return super().push_pull(step, gradient, samples, out)


def train(device: Device, store: LockstepStore, run: Run = RUN) -> tuple[Rank, Heard]:
    heard = Heard()
    synchronizer = ParameterServer(store, device=device)
    rank = Rank(Small(), run, synchronizer, heard, FakeClock(), device=device)
    rank.train()
    return rank, heard


@pytest.mark.parametrize("kind", [LockstepStore, EarlyStore])
def test_training_on_a_device_over_a_store_ends_at_the_same_bits(kind: type[LockstepStore]) -> None:
    plain, measured = train(HOST, LockstepStore(1, adamw))
    device = Apart()

    apart, heard = train(device, kind(1, adamw))

    assert torch.equal(apart.model.values, plain.model.values)
    assert heard.evaluations == measured.evaluations
    assert apart.evaluate_test() == plain.evaluate_test()
    assert apart.metrics["peak_device_bytes"] > 0
    assert "peak_device_bytes" not in plain.metrics
    inputs = [each for each in device.received if each.shape[1:] == (4,)]
    assert sum(map(len, inputs)) == 5 * 16 + 2 + 2 * 50 + 50, "three batches and a rest to an epoch of 50"


def test_a_step_without_a_backward_pass_pushes_the_zeros_of_all_parameters() -> None:
    """The parts that the step before was told of say nothing of this one."""
    store = EarlyStore(1, lambda values: torch.optim.SGD(values, lr=1.0))
    synchronizer = ParameterServer(store, device=Apart())
    layout = FlatLayout((TensorSpec("weight", (2,)), TensorSpec("bias", (2,))))
    values, gradient = torch.zeros(4), torch.ones(4)
    synchronizer.begin(layout, values)
    early = synchronizer.begin_step(0, gradient, 1)
    assert early
    early.ready(range(2))
    synchronizer.step(0, gradient, 1)

    gradient.zero_()
    synchronizer.step(1, gradient, 1)

    assert values.tolist() == [-1, -1, -1, -1]


def test_a_mirror_copies_both_ways_and_only_what_is_asked_for() -> None:
    vector, host = torch.arange(5.0), np.zeros(5, np.float32)
    mirror = Mirror(vector, host)
    mirror.fetch(range(1, 3))
    np.testing.assert_array_equal(host, [0, 1, 2, 0, 0])
    mirror.fetch()
    host *= 2
    mirror.put()
    assert vector.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_was_never_ready_is_fetched_at_the_end_and_all_of_it_after_a_cancel(cancelled: bool) -> None:
    vector, host = torch.arange(1.0, 9.0), np.zeros(8, np.float32)
    sent = Sent(host)
    early = MirroredEarly(sent, Mirror(vector, host))
    early.ready(range(5, 7))
    early.ready(range(1, 2))
    assert early.share_sent == 3 / 8
    vector *= 10 if cancelled else 1
    if cancelled:
        early.cancel()

    early.fetch_rest()

    assert host.tolist() == vector.tolist()
    assert sent.cancelled == cancelled


def test_a_vector_of_the_host_is_its_own_mirror() -> None:
    model = FlatModel(Small().model())
    mirror = Mirror(model.values, model.values.numpy())
    model.values.fill_(7)
    assert (mirror.host == 7).all()
    mirror.fetch()
    mirror.put()
    assert (model.values == 7).all()


@pytest.mark.parametrize("config", [Adam(1e-3), AdamW(1e-3)])
def test_all_of_a_step_happens_on_the_device(config: Adam | AdamW) -> None:
    """On torch's "meta", which has shapes and no values, and refuses to compute with a tensor of the host."""
    device, program = Device("meta"), Small()
    model = FlatModel(torch.nn.Sequential(program.model(), torch.nn.BatchNorm1d(2)), device=device)
    batch = as_batch(program.data("train"), device)

    model.begin(0)
    loss = program.loss(model.module(**batch.inputs), batch.targets)
    torch.autograd.backward(loss)
    optimizer = optimizer_for(config, model.layout, [range(model.layout.size)], device=model.values.device)
    new = optimizer.apply(model.values, [(model.gradient, 0.5)])

    tensors = [*model.module.parameters(), *model.buffers, model.values, model.gradient, loss, new]
    tensors += [*batch.inputs.values(), batch.targets, *optimizer.state().values()]
    tensors += [parameter.grad for parameter in model.module.parameters() if parameter.grad is not None]
    assert {each.device.type for each in tensors} == {"meta"}
