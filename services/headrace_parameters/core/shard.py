"""One shard: values, optimizer, and the rules by which gradients become new values.

Not thread-safe: its owner lets one call in at a time. Only `published` may be read at any moment; what it points to never changes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from headrace.errors import (
    FailedPrecondition,
    InvalidArgument,
    NonFiniteValues,
    OutOfRange,
    ShapeMismatch,
)
from headrace.parameters.layout import FlatLayout, Floats
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.optimizer import FusedOptimizer, kind_of, state_bytes
from headrace_parameters.core.state import ShardState

# Up to here a double counts without a gap, and the sum over all workers is far from an overflow, which would weigh all with 0.
MOST_SAMPLES = float(1 << 53)


@dataclass(frozen=True)
class Published:
    """Values of one version, shape (shard's length,); nobody writes to them any more."""

    version: int
    values: Floats


@dataclass(frozen=True)
class Push:
    """One worker's gradient for one step; the memory of `gradient` is the shard's from now on.

    Raises:
        NonFiniteValues: The gradient holds a NaN or an infinity.
        InvalidArgument: `samples` is no weight.
    """

    worker: int
    step: int
    samples: float
    gradient: Floats

    def __post_init__(self) -> None:
        if not 0 <= self.samples <= MOST_SAMPLES:  # a NaN is within nothing
            raise InvalidArgument(f"samples is {self.samples}; it must be 0 to 2**53", field="header.samples")
        check_finite(self.gradient, f"the gradient of worker {self.worker} for step {self.step}")


def check_finite(values: Floats, what: str) -> None:
    """Raise NonFiniteValues, naming the first place, if `values` holds a NaN or an infinity."""
    tensor = torch.from_numpy(values)
    # The sum is cheap, needs no memory and is finite only if all values are; large finite ones may overflow it.
    if math.isfinite(tensor.sum().item()) or torch.isfinite(tensor).all():
        return
    place = int(np.argmin(np.isfinite(values)))
    raise NonFiniteValues(
        f"{what} holds {values[place]} at offset {place} of the shard; nothing was applied: lower the learning rate or skip the batch",
        metadata={"offset": place},
    )


class Shard:
    """The part of a store's flat vector that one process holds."""

    def __init__(self, config: StoreConfig) -> None:
        self.config = config
        self.layout: FlatLayout | None = None
        self.published: Published | None = None
        self._optimizer: FusedOptimizer | None = None
        self._last_steps: dict[int, int] = {}  # ASYNC only: under BSP the version tells
        self._pending: Mapping[int, Push] = {}  # BSP: gradients of the step that is not complete

    @property
    def size_bytes(self) -> int:
        """Memory of values and optimizer state; 0 before there are values."""
        return self.needed_bytes(self.layout) if self.layout else 0

    def needed_bytes(self, layout: FlatLayout) -> int:
        """Return what `size_bytes` is with a model of this layout."""
        length = len(self.held(layout))
        return 4 * length + state_bytes(self.config.optimizer, length)

    def held(self, layout: FlatLayout) -> range:
        """Say which values of a model of this layout the shard holds."""
        return layout.shard_range(self.config.shard_index, self.config.shard_count)

    @property
    def missing_workers(self) -> list[int]:
        """Workers whose gradients the next version waits for, under BSP."""
        if self.config.consistency is Consistency.ASYNC:
            return []
        return [worker for worker in range(self.config.worker_count) if worker not in self._pending]

    @property
    def between_steps(self) -> bool:
        """Whether `state` has all that was taken: no gradient waits for the others of its step."""
        return not self._pending

    def initialize(self, layout: FlatLayout, values: Floats) -> None:
        """Take the first values, shape (shard's length,), as version 0; do nothing if there are values already.

        Raises:
            NonFiniteValues: `values` holds a NaN or an infinity.
            ShapeMismatch: The store has values of another layout, or the shape is another.
        """
        if self.published:
            self.check_layout(layout)
            return
        length = len(self.held(layout))
        if values.shape != (length,):
            raise ShapeMismatch(
                f"{values.size} values were given; shard {self.config.shard_index} holds {length}"
            )
        check_finite(values, "the first values")
        self.layout = layout
        self._optimizer = FusedOptimizer(self.config.optimizer, length)
        self._publish(0, torch.from_numpy(values.copy()))

    def check_layout(self, layout: FlatLayout) -> None:
        """Raise ShapeMismatch if the shard has values of another model."""
        if self.layout is not None and layout != self.layout:
            raise ShapeMismatch(
                f"{self.config.name} holds {len(self.layout.tensors)} tensors with {self.layout.size} values, "
                f"other ones than the {len(layout.tensors)} with {layout.size} given; use a new store for another model"
            )

    def is_duplicate(self, worker: int, step: int) -> bool:
        """Tell whether this worker's gradient for this step was taken before.

        Raises:
            FailedPrecondition: The shard has no values yet.
            InvalidArgument: There is no such worker.
            OutOfRange: BSP: the step is ahead of the version.
        """
        if self.published is None:
            raise FailedPrecondition(f"{self.config.name} has no values yet; call Initialize first")
        if not 0 <= worker < self.config.worker_count:
            raise InvalidArgument(
                f"worker is {worker}; this store has workers 0 to {self.config.worker_count - 1}",
                field="header.worker",
            )
        if self.config.consistency is Consistency.ASYNC:
            return step <= self._last_steps.get(worker, -1)
        if step > self.published.version:
            raise OutOfRange(
                f"step {step} is ahead of version {self.published.version}; pull, then push step {self.published.version}",
                metadata={"version": self.published.version},
            )
        return step < self.published.version or worker in self._pending

    def takes(self, push: Push) -> bool:
        """Tell whether `push` would take this gradient, or raise what it would; changes nothing."""
        if self.is_duplicate(push.worker, push.step):
            return False
        assert self.published is not None
        if push.gradient.shape != self.published.values.shape:
            raise ShapeMismatch(
                f"the gradient has {push.gradient.size} values; this shard holds {self.published.values.size}"
            )
        return True

    def version_with(self, step: int) -> int:
        """Return the first version that holds the gradients of `step`; under ASYNC any does that comes after the push."""
        return step + 1 if self.config.consistency is Consistency.BSP else 0

    def push(self, push: Push) -> bool:
        """Take a gradient; return False, with nothing changed, if it was taken before.

        Raises:
            ShapeMismatch: It has another shape than (shard's length,).
            FailedPrecondition, InvalidArgument, OutOfRange: As `is_duplicate`.
        """
        if not self.takes(push):
            return False
        if self.config.consistency is Consistency.ASYNC:
            self._apply({push.worker: push})
            self._last_steps[push.worker] = push.step
            return True
        pending = {**self._pending, push.worker: push}
        if len(pending) == self.config.worker_count:
            self._apply(pending)
            pending = {}
        self._pending = pending
        return True

    def _apply(self, pushes: Mapping[int, Push]) -> None:
        """Publish the next version, one optimizer step with the weighted mean of the gradients away."""
        assert self.published is not None
        assert self._optimizer is not None
        values = torch.from_numpy(self.published.values)
        total = sum(push.samples for push in pushes.values())
        if total > 0:
            # In the order of the workers, not of arrival: sums of floats depend on it, and a run must be repeatable.
            gradients = [
                (torch.from_numpy(pushes[worker].gradient), pushes[worker].samples / total)
                for worker in sorted(pushes)
            ]
            values = self._optimizer.apply(values, gradients)
        self._publish(self.published.version + 1, values)

    def _publish(self, version: int, values: torch.Tensor) -> None:
        array: Floats = values.numpy()
        self.published = Published(version, array)

    def state(self) -> ShardState:
        """Return all of it, but the gradients of a step that is not complete.

        Raises:
            FailedPrecondition: There are no values yet.
        """
        if self.published is None or self.layout is None or self._optimizer is None:
            raise FailedPrecondition(f"{self.config.name} has no values to save yet; call Initialize first")
        return ShardState(
            layout=self.layout,
            shard_index=self.config.shard_index,
            shard_count=self.config.shard_count,
            optimizer=kind_of(self.config.optimizer),
            version=self.published.version,
            last_steps=dict(self._last_steps),
            values=torch.from_numpy(self.published.values),
            optimizer_state=self._optimizer.state(),
        )

    def restore(self, state: ShardState) -> None:
        """Become what `state` says; gradients of a step that is not complete are dropped.

        Raises:
            InvalidArgument: It is the state of another shard or optimizer.
            ShapeMismatch: It is the state of another model than the one held.
        """
        self._check_same("shard_index", state.shard_index, self.config.shard_index)
        self._check_same("shard_count", state.shard_count, self.config.shard_count)
        self._check_same("optimizer", state.optimizer, kind_of(self.config.optimizer))
        self.check_layout(state.layout)
        optimizer = FusedOptimizer(self.config.optimizer, len(self.held(state.layout)))
        optimizer.load(state.optimizer_state)
        self.layout, self._optimizer = state.layout, optimizer
        self._last_steps, self._pending = dict(state.last_steps), {}
        self._publish(state.version, state.values)

    def _check_same(self, fact: str, snapshot: object, own: object) -> None:
        if snapshot != own:
            raise InvalidArgument(
                f"the snapshot has {fact} {snapshot}, this store {own}; restore each shard from its own snapshot",
                field="artifact",
            )
