"""The claim that distribution changes nothing: two workers end where a plain torch loop does, whatever the strategy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from headrace.names import VersionName
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import schedule_pb2, stores_pb2
from headrace.program import Program
from headrace.program.loading import load_attribute
from headrace.testing.data import examples_of
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.types.v1.program_pb2 import Program as ProgramMessage
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.training_world import ADAMW, SGD, World

STEPS, BATCH, SEED = 50, 64, 7
TEXT = {"context": 16, "channels": 32, "layers": 1}  # small enough for a test


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


def single_process(program: Program, case: Case, parts: int) -> dict[str, Floats]:
    """Train with torch alone, on full batches, each gradient in this many parts that are added up."""
    data = examples_of(program, "train")
    torch.manual_seed(SEED)
    model = program.model()
    optimizer = case.make(model.parameters())
    scheduler = case.schedule(optimizer) if case.schedule else None
    for chosen in batches(len(data)):
        optimizer.zero_grad()
        for part in (chosen[first::parts] for first in range(parts)):
            outputs = model(**{name: torch.from_numpy(array[part]) for name, array in data.inputs.items()})
            loss = program.loss(outputs, torch.from_numpy(data.targets[part]))
            torch.autograd.backward(loss * len(part) / len(chosen))
        torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip_norm)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def parameter_server(
    running: World, case: Case, asked: ProgramMessage, **changes: Any
) -> list[StartTaskRequest]:
    store = running.create_store(case.optimizer)
    return [
        running.request(asked, store, steps=STEPS, rank=rank, world_size=2, **changes) for rank in range(2)
    ]


def all_reduce(running: World, case: Case, asked: ProgramMessage, **changes: Any) -> list[StartTaskRequest]:
    return running.all_reduce(asked, case.optimizer, steps=STEPS, **changes)


@pytest.mark.parametrize(
    ("name", "config", "optimizer", "parts"),
    [
        ("headrace_examples.digits:Digits", {}, "sgd", 1),
        # Where a gradient is as small as its rounding, Adam's divisor makes steps of it: adding up in another order alone moves the
        # values by 2.4e-6 here, so the one process adds up in the same order.
        ("headrace_examples.digits:Digits", {}, "adamw", 2),
        ("headrace_examples.digits:Digits", {}, "clipped", 2),
        ("headrace_examples.tabular:BreastCancer", {}, "sgd", 1),
        ("headrace_examples.tabular:BreastCancer", {}, "clipped", 1),
        ("headrace_examples.text:CharacterModel", TEXT, "adamw", 1),
    ],
)
def test_two_workers_equal_one_process_whatever_the_strategy(
    running: World, name: str, config: dict[str, int], optimizer: str, parts: int
) -> None:
    asked = ProgramMessage(module=name)
    asked.config.update(config)
    expected = single_process(load_attribute(name, config), CASES[optimizer], parts)
    for strategy in (parameter_server, all_reduce):
        wanted = f"{name.rpartition(':')[2].lower()}-{optimizer}-{strategy.__name__.replace('_', '-')}"
        model = f"projects/default/models/{wanted}"
        requests = strategy(running, CASES[optimizer], asked, batch_size=BATCH, seed=SEED, model=model)

        first, second = running.run(*requests)

        assert (first.state, second.state) == (TaskState.TASK_STATE_SUCCEEDED,) * 2, first.failure
        assert VersionName.parse(first.result.version).parent.model == wanted
        assert second.result.version == ""
        trained = running.weights(running.registry.get_version(first.result.version))
        assert trained.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(trained[key], value, rtol=0, atol=1e-6, err_msg=key)
