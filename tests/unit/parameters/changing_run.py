"""A run whose members may change, over real shards.

Each worker is a generator that stops wherever a real one talks to a shard; Hypothesis says who goes on. A worker that is left out goes
on like all others: it is a zombie until a shard refuses it.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from headrace.errors import MembersChanged, Unavailable
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.ranges import length
from headrace_optimizers.config import Optimizer
from headrace_parameters.core.config import Consistency, Norms, StoreConfig
from headrace_parameters.core.exchange import of_version
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.shard import Push, Shard

STEPS, BATCH, SIZE = 4, 6, 5
LAYOUT = FlatLayout((TensorSpec("x", (SIZE,)),))
TARGETS = np.random.default_rng(0).normal(size=(STEPS, BATCH, SIZE)).astype(np.float32)
MIX = np.random.default_rng(1).normal(size=(SIZE, SIZE)) / SIZE  # each value's gradient depends on all values

Ready = Callable[[], bool]  # when the worker can go on
Life = Generator[Ready, None, None]


def always() -> bool:
    return True


def gradient_of(step: int, values: Floats, chosen: slice) -> tuple[Floats, int]:
    """Return the mean gradient of |mixed values - target|^2 / 2 over some of a step's samples, and how many there are."""
    targets = TARGETS[step][chosen]
    gradient = MIX.T @ (MIX @ values - targets.mean(0)) if len(targets) else np.zeros(SIZE)
    return gradient.astype(np.float32), len(targets)


@dataclass
class Run:
    shards: list[Shard]
    generation: int = 0
    members: tuple[int, ...] = (0, 1)
    lives: dict[int, Life] = field(default_factory=dict)
    waits: dict[int, Ready] = field(default_factory=dict)
    computing: dict[int, int] = field(default_factory=dict)  # step by worker
    next_worker: int = 2

    def start(self, worker: int) -> None:
        self.lives[worker], self.waits[worker] = self.life(worker), always

    # A worker

    def life(self, worker: int) -> Life:
        place = yield from self.take_place(worker, was_member=False)
        if place is None:
            return
        generation, members, values, step = place
        while step < STEPS:
            self.computing[worker] = step
            share = slice(members.index(worker), None, len(members))
            gradient, samples = gradient_of(step, values, share)
            try:
                step = yield from self.push_pull(worker, generation, step, gradient, samples, values)
            except MembersChanged:
                place = yield from self.take_place(worker, was_member=True)
                if place is None:
                    return
                generation, members, values, version = place
                step = max(step, version)

    def take_place(
        self, worker: int, was_member: bool
    ) -> Generator[Ready, None, tuple[int, tuple[int, ...], Floats, int] | None]:
        """As `headrace.parameters.membership` does."""
        while True:
            seen: list[tuple[int, tuple[int, ...], int]] = []
            for shard in self.shards:
                yield always
                assert shard.published
                seen.append((shard.members.generation, shard.members.workers, shard.published.version))
            generation, members, _ = max(seen)
            if worker not in members:
                if was_member:
                    self.computing.pop(worker, None)
                    return None
                yield lambda old=generation: any(shard.members.generation > old for shard in self.shards)  # type: ignore[misc]
                continue
            was_member = True
            if any(one[0] < generation for one in seen):
                yield lambda new=generation: all(shard.members.generation >= new for shard in self.shards)  # type: ignore[misc]
                continue
            values, version = np.empty(SIZE, np.float32), min(one[2] for one in seen)
            try:
                for shard in self.shards:
                    yield always
                    shard.members.check_generation(generation)
                    assert shard.published
                    held = of_version(version, shard.published, shard.former) if self.bsp else shard.published
                    part_of(values, shard)[...] = held.values
            except MembersChanged:
                continue
            return generation, members, values, version if self.bsp else 0

    @property
    def bsp(self) -> bool:
        return self.shards[0].config.consistency is Consistency.BSP

    def push_pull(
        self, worker: int, generation: int, step: int, gradient: Floats, samples: int, out: Floats
    ) -> Generator[Ready, None, int]:
        for shard in self.shards:
            yield always
            shard.members.check_generation(generation)
            # An SSP worker was let into this step by a wait, so the bound lets it push.
            shard.push(Push(worker, step, samples, part_of(gradient, shard).copy(), generation))
        if self.shards[0].config.joint_norms:
            yield from self.finish(generation, step)
        following = []
        for shard in self.shards:
            yield lambda shard=shard: self.fits(shard, step + 1) or shard.members.generation != generation  # type: ignore[misc]
            if not self.fits(shard, step + 1):
                shard.members.check_generation(generation)
            assert shard.published
            part_of(out, shard)[...] = shard.published.values
            following.append(shard.next_step(worker, shard.published))
        return max(step + 1, min(following))

    def fits(self, shard: Shard, step: int) -> bool:
        assert shard.published
        return shard.need_for(step).met_by(shard.published.version, shard.published.slowest)

    @staticmethod
    def knows_norm(shard: Shard, step: int, generation: int) -> bool:
        measured = shard.measured.get(Norms.GRADIENT)
        return (measured is not None and measured.step >= step) or shard.members.generation != generation

    def finish(self, generation: int, step: int) -> Generator[Ready, None, None]:
        norms = []
        for shard in self.shards:
            yield partial(self.knows_norm, shard, step, generation)
            measured = shard.measured.get(Norms.GRADIENT)
            if not measured or measured.step < step:
                shard.members.check_generation(generation)
            norms.append(measured)
        parts = [norm.squared_norms[0] for norm in norms if norm and norm.step == step]
        if len(parts) == len(norms):
            for shard in self.shards:
                yield always
                shard.finish_step(StepNorms(step, Norms.GRADIENT, (sum(parts),)))

    # Whoever decides about members

    def change(self, leaving: int | None, joining: bool) -> None:
        stay = [worker for worker in self.members if worker != leaving]
        if joining:
            stay.append(self.next_worker)
            self.start(self.next_worker)
            self.next_worker += 1
        self.generation, self.members = self.generation + 1, tuple(stay)

    def undelivered(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.members.generation < self.generation]

    @property
    def values(self) -> Floats:
        """The shards' newest, put together."""
        return np.concatenate([shard.published.values for shard in self.shards if shard.published])

    # The world

    def runnable(self) -> list[int]:
        return [worker for worker, ready in self.waits.items() if ready()]

    def step(self, worker: int) -> None:
        try:
            self.waits[worker] = next(self.lives[worker])
        except StopIteration:
            del self.lives[worker], self.waits[worker]
        except (
            Unavailable
        ):  # it knows of a generation that this shard does not: a real client tries again, so it had to wait
            raise AssertionError("a worker used a place that not all shards know") from None

    def over(self) -> bool:
        return not any(worker in self.lives for worker in self.members)


def new_run(shards: int, consistency: Consistency, optimizer: Optimizer, **rules: object) -> Run:
    run = Run([new_shard(index, shards, 2, consistency, optimizer, **rules) for index in range(shards)])
    for worker in run.members:
        run.start(worker)
    return run


def new_shard(
    index: int, shards: int, workers: int, consistency: Consistency, optimizer: Optimizer, **rules: object
) -> Shard:
    config = StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=index,
        shard_count=shards,
        worker_count=workers,
        consistency=consistency,
        optimizer=optimizer,
        **rules,  # type: ignore[arg-type]  # each test's
    )
    shard = Shard(config)
    shard.initialize(LAYOUT, np.zeros(length(shard.held(LAYOUT)), np.float32))
    return shard


def part_of(flat: Floats, shard: Shard) -> Floats:
    """Return what a shard holds of a vector, shape (SIZE,); it shares its memory."""
    (held,) = shard.held(LAYOUT)
    return flat[held.start : held.stop]
