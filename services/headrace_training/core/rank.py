"""One rank of a run: computes gradients, step by step, and agrees with the other ranks on the values that follow from them.

BatchNorm and other buffers are not parameters: each rank keeps its own, and those of rank 0 are saved.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Protocol

import torch

from headrace.data.dataset import Dataset
from headrace.data.rows import divided
from headrace.errors import MembersChanged, NonFiniteValues, RunFinished
from headrace.parameters.answers import Place
from headrace.program import Examples, Program
from headrace.program.calls import OpenDataset, load_split
from headrace_training.core import examples
from headrace_training.core.device import HOST, Device
from headrace_training.core.early_gradient import ReadyParts
from headrace_training.core.evaluation import Evaluation, EvaluationObserver
from headrace_training.core.feed import feed
from headrace_training.core.flat_model import FlatModel, trainable
from headrace_training.core.flops import FlopMeter
from headrace_training.core.model import Model
from headrace_training.core.order import noise_seed
from headrace_training.core.preparation import prepare
from headrace_training.core.run import Run
from headrace_training.core.selection import Best
from headrace_training.core.synchronizer import Synchronizer
from headrace_training.core.throughput import OwnTime, Throughput

SENT_EARLY = "sent_early"  # the measure that not every step has


class Observer(EvaluationObserver, Protocol):
    """Who hears how the rank fares."""

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        """`step` steps are done."""

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        """The run was saved after `step` steps."""

    def took_lead(self, step: int) -> Best | None:
        """This rank leads from step `step` on, in the place of another one; return the best that the run found so far."""

    def raise_if_stopped(self) -> None:
        """Raise Cancelled if the rank should end."""


class Rank:
    """A rank and its model. Seeds torch's global generator: one rank per process."""

    def __init__(
        self,
        program: Program,
        run: Run,
        synchronizer: Synchronizer,
        observer: Observer,
        clock: Callable[[], float],
        open_dataset: OpenDataset = Dataset.open,
        device: Device = HOST,
    ) -> None:
        """Make the model and open the data.

        Args:
            clock: Returns seconds, for the throughput.
            open_dataset: Opens data that are streamed.
            device: What the model computes on.
        """
        self._program, self._run, self._observer = program, run, observer
        self._synchronizer, self._device = synchronizer, device
        self._open_dataset = open_dataset
        self._feed = feed(load_split(program, "train", open_dataset), run.batch_size, run.seed, run.steps)
        # Who leads has one.
        self._evaluation = Evaluation(program, run, observer, open_dataset) if run.rank == 0 else None
        self._took_lead = False  # just now
        self._place = Place(run.rank, run.world_size)
        torch.manual_seed(run.seed)
        module = prepare(examples.make_model(program), run, device)
        self.model = self._hold(module)
        self._ready_parts: ReadyParts | None = None  # made for who takes gradients while they are computed
        self._throughput, self._flops = Throughput(clock), FlopMeter(run.peak_flops)
        self._clock, self._own_time = clock, OwnTime()
        self.metrics: dict[str, float] = {}
        self.step = run.start_step  # how many are done

    def train(self) -> None:
        """Do all steps, or those until rank 0 finds no better values; `metrics` then has the newest measures, and rank 0's model the
        last values.

        Raises:
            NonFiniteValues: The loss or the gradient became NaN or infinite.
            ProgramFailed: `loss()` returned no scalar.
            Cancelled: The observer asked to stop.
        """
        self.model.module.train()
        try:
            began = self._begin()
        except RunFinished:
            return
        self._train_on(began)
        while not self.leads and self._takes_over():
            self._train_on(began)

    def _begin(self) -> int:
        """Agree with the others on the values to begin with, and return how many steps are done."""
        model = self.model
        place = self._synchronizer.begin(model.layout, model.values, model.tables, model.buffers)
        self._take(place or self._place)
        self.step = max(self.step, self._place.step)
        model.use_tables_for(self.step)
        return self.step

    def _train_on(self, began: int) -> None:
        """Do the steps that are left, or those until rank 0 finds no better values.

        Args:
            began: Steps that were done when this rank began.
        """
        with suppress(RunFinished):
            while self.step < self._run.steps:
                self._observer.raise_if_stopped()
                self._measure_for_who_led()
                self._finish_run_if_best_is_past()  # first: an attempt may begin where the one before gave up
                before, self.step = self.step, self._advance(self.step)
                if self.step > before:
                    self._finish_steps(before)
            self._finish(began)

    def _takes_over(self) -> bool:
        """Wait until the one that leads is done; tell whether this rank has been given a place anew instead."""
        try:
            self._synchronizer.stay()
        except MembersChanged:
            self._rejoin()
            return True
        return False

    def _hold(self, module: torch.nn.Module) -> Model:
        return FlatModel(module, self._synchronizer.gradient_memory, self._device)

    @property
    def leads(self) -> bool:
        """Whether this rank does what is to be done once: evaluates, checkpoints, registers."""
        return self._evaluation is not None

    def evaluate_test(self) -> dict[str, float]:
        """Measure the model's values on the test split."""
        test = load_split(self._program, "test", self._open_dataset)
        return examples.evaluate(self._program, self.model.module, test, self._device)

    def _take(self, place: Place) -> None:
        """Compute the share of this place from now on; who is first leads."""
        self._place = place
        if place.leads and self._evaluation is None:
            run = replace(self._run, best=self._observer.took_lead(self.step))
            self._evaluation = Evaluation(self._program, run, self._observer, self._open_dataset)
            self._took_lead = True

    def _rejoin(self) -> None:
        """Take a place anew, and go on with the step that the others are in."""
        self._take(self._synchronizer.rejoin())
        self.step = max(self.step, self._place.step)

    def _measure_for_who_led(self) -> None:
        """Measure the present values, if this rank has just taken the lead and the one that led may not have come to it."""
        took, self._took_lead = self._took_lead, False
        if took and self._evaluation and self.step and self._run.evaluates_between(self.step - 1, self.step):
            self.metrics |= self._evaluation.measure(self.model, self.step)

    def _advance(self, step: int) -> int:
        """Do one step and return the next; the same one if ranks have joined or left before it was done."""
        try:
            following = max(step + 1, self._step(step))
        except MembersChanged:
            self._rejoin()
            following = self.step
        return min(following, self._run.steps)

    def _step(self, step: int) -> int:
        """Do one step and return the next."""
        run, place, began = self._run, self._place, self._clock()
        self.metrics.pop(SENT_EARLY, None)  # this step's gradient may go whole
        mine = self._feed(step, place.index, place.count)
        self.model.begin(step)
        if len(mine):
            torch.manual_seed(noise_seed(run.seed, place.index, step))
            with self._flops.counting(len(mine)):
                self.metrics["loss"] = self._compute(step, mine)
        self._check_gradient(step)
        self._own_time.add(self._clock() - began)
        following = self._synchronizer.step(step, self.model.gradient, len(mine))
        self.model.use_tables_for(following)
        self._throughput.add(len(mine))
        return following

    def _compute(self, step: int, mine: Examples) -> float:
        """Compute the gradient of the mean loss of these examples, and return the loss; the last pass lets go of the gradient part by part."""
        *first, last = divided(mine, self._run.accumulate)
        loss = sum(self._backward(step, part, len(part) / len(mine)) for part in first)
        return loss + self._backward(step, last, len(last) / len(mine), self._sending(step, len(mine)))

    @contextmanager
    def _sending(self, step: int, samples: int) -> Iterator[None]:
        """Let the synchronizer take, where it can, what is computed within."""
        early = self._synchronizer.begin_step(step, self.model.gradient, samples)
        if early is None:
            yield
            return
        if self._ready_parts is None:
            self._ready_parts = ReadyParts(trainable(self.model.module), self.model.layout)
        with self._ready_parts.told_to(early):
            yield
        self.metrics[SENT_EARLY] = early.share_sent

    def _backward(
        self, step: int, part: Examples, share: float, around: AbstractContextManager[None] | None = None
    ) -> float:
        """Add the gradient of the mean loss of these examples, times their share of the step's, to the model's.

        Args:
            around: Entered for the backward pass.
        Returns:
            The mean loss, times the share.
        """
        batch = examples.as_batch(part, self._device)
        loss = examples.as_loss(self._loss(batch))
        value = loss.item()
        if not torch.isfinite(loss):
            raise NonFiniteValues(
                f"the loss is {value} in step {step}; lower the learning rate, or look for such values in the data"
            )
        with around or nullcontext():
            (loss * share).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return value * share

    def _loss(self, batch: examples.Batch) -> object:  # no type checker has seen the user's code
        with self._device.autocast(bf16=self._run.bf16):
            return self._program.loss(self.model.module(**batch.inputs), batch.targets)

    def _check_gradient(self, step: int) -> None:
        norm = self.metrics["gradient_norm"] = self.model.gradient_norm()
        name = "" if math.isfinite(norm) else self.model.non_finite_gradient()
        if name:
            raise NonFiniteValues(
                f"the gradient of {name!r} is not finite in step {step}; lower the learning rate, or look for such values in the "
                f"data"
            )

    def _finish_steps(self, before: int) -> None:
        done = self.step
        if self._evaluation and self._run.evaluates_between(before, done):
            self.metrics |= self._evaluation.measure(self.model, done)
        self.metrics["samples_per_s"] = self._throughput.samples_per_s
        self.metrics |= self._flops.metrics(self._throughput.samples_per_s) | self._device.metrics()
        if self._own_time.seconds:
            self.metrics["own_step_s"] = self._own_time.seconds
        self._observer.advanced(done, self.metrics)
        if self._run.checkpoints_between(before, done):
            self._checkpoint(done)

    def _checkpoint(self, done: int) -> None:
        if self.leads:
            self._observer.checkpointed(done, self._synchronizer.checkpoint())

    def _finish_run_if_best_is_past(self) -> None:
        """End the run for all ranks, this one included, if better values are no longer expected."""
        while self._evaluation and self._evaluation.gives_up(self.step):
            try:
                self._synchronizer.finish_run()
            except (
                MembersChanged
            ):  # somebody has just joined, or is gone: say it again as one of the members there are now
                self._rejoin()
            else:
                raise RunFinished(f"no better values came up to step {self.step}")

    def _finish(self, began: int) -> None:
        """Bring the values after the last step, also those of other ranks, to the one that leads.

        Args:
            began: Steps that were done when this rank began.
        """
        self._measure_for_who_led()
        if self._evaluation:
            if began == self._run.steps:
                self.metrics |= self._evaluation.measure(self.model, self.step)
            self._synchronizer.final()
