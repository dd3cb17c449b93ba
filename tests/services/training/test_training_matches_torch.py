"""The claim that distribution changes nothing: two workers and two shards end where a plain torch loop does."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch

from headrace.names import VersionName
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import schedule_pb2, stores_pb2
from headrace.program import Program
from headrace.program.loading import load_attribute
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.training_world import ADAMW, SGD, World

STEPS, BATCH, SEED = 50, 64, 7


@dataclass(frozen=True)
class Case:
    optimizer: stores_pb2.Optimizer
    make: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
    clip_norm: float = float("inf")
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None


CASES = {
    "adamw": Case(ADAMW, lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)),
    "clipped": Case(
        stores_pb2.Optimizer(
            adam=stores_pb2.Adam(learning_rate=1e-3),
            schedule=schedule_pb2.Schedule(decay=schedule_pb2.DECAY_COSINE, decay_steps=STEPS),
            maximum_gradient_norm=0.5,
        ),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        clip_norm=0.5,
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    ),
    "sgd": Case(SGD, lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)),
}


def batches(examples: int) -> Iterable[npt.NDArray[np.int64]]:
    """Draw the documented order, written down a second time: a fresh permutation per epoch, cut into batches."""
    step = epoch = 0
    while step < STEPS:
        permutation = np.random.default_rng([SEED, epoch]).permutation(examples)
        for begin in range(0, examples, BATCH):
            yield permutation[begin : begin + BATCH]
            step += 1
            if step == STEPS:
                return
        epoch += 1


def single_process(program: Program, case: Case) -> dict[str, Floats]:
    """Train with torch alone, on full batches."""
    data = program.data("train")
    torch.manual_seed(SEED)
    model = program.model()
    optimizer = case.make(model.parameters())
    scheduler = case.schedule(optimizer) if case.schedule else None
    for chosen in batches(len(data)):
        optimizer.zero_grad()
        outputs = model(**{name: torch.from_numpy(array[chosen]) for name, array in data.inputs.items()})
        torch.autograd.backward(program.loss(outputs, torch.from_numpy(data.targets[chosen])))
        torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip_norm)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", list(CASES))
@pytest.mark.parametrize(
    "name", ["headrace_examples.digits:Digits", "headrace_examples.tabular:BreastCancer"]
)
def test_two_workers_and_two_shards_equal_one_process(running: World, name: str, optimizer: str) -> None:
    case = CASES[optimizer]
    store = running.create_store(case.optimizer)
    model = f"projects/default/models/{name.rpartition(':')[2].lower()}-{optimizer}"
    requests = [
        running.request(
            name, store, steps=STEPS, batch_size=BATCH, seed=SEED, rank=rank, world_size=2, model=model
        )
        for rank in range(2)
    ]

    first, second = running.run(*requests)

    assert (first.state, second.state) == (TaskState.TASK_STATE_SUCCEEDED,) * 2, first.failure
    assert VersionName.parse(first.result.version).parent.model == model.rpartition("/")[2]
    assert second.result.version == ""
    trained = running.weights(running.registry.get_version(first.result.version))
    expected = single_process(load_attribute(name), case)
    assert trained.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(trained[key], value, rtol=0, atol=1e-5, err_msg=key)
