# length: all rules of one shard, which share its state
"""One shard: values, optimizer, and the rules by which gradients become new values.

Not thread-safe: its owner lets one call in at a time. Only `published` may be read at any moment; what it points to never changes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from headrace.errors import Cancelled, FailedPrecondition, OutOfRange, ShapeMismatch
from headrace.parameters.cut import Cut
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.ranges import length
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.config import Registered
from headrace_optimizers.fused import FusedOptimizer, kind_of, state_bytes
from headrace_optimizers.lamb import LambOptimizer
from headrace_optimizers.making import optimizer_for
from headrace_parameters.core.clocks import Clocks
from headrace_parameters.core.config import Consistency, Durability, Norms, StoreConfig
from headrace_parameters.core.coverage import check_shape, is_partial, means
from headrace_parameters.core.exchange import Published, Push, check_finite, check_held, check_waiting
from headrace_parameters.core.joint import (
    ClippedRows,
    HeldStep,
    JointSteps,
    Measured,
    StepNorms,
    hold,
)
from headrace_parameters.core.members import Members, MembersChange, first_members
from headrace_parameters.core.memory import PrivateValues, Readers, Successive, ValueMemory
from headrace_parameters.core.need import Need
from headrace_parameters.core.part import Part
from headrace_parameters.core.standing import Pending, Standing
from headrace_parameters.core.state import ShardState
from headrace_parameters.core.step import weighted
from headrace_parameters.core.update import Update, partial, whole

__all__ = ["Published", "Push", "Shard"]


class Shard:
    """The part of a store's flat vector that one process holds.

    Args:
        memory: Gives the memory for published values.
        members: Whose gradients count; None: those of the workers that the store is made for.
    """

    def __init__(
        self, config: StoreConfig, memory: ValueMemory | None = None, members: Members | None = None
    ) -> None:
        self.config = config
        self._memory = Successive(memory or PrivateValues())
        self.layout: FlatLayout | None = None
        self.map: ShardMap | None = None
        self.published: Published | None = None
        self.former: Published | None = None  # BSP: the version before, until the next is computed
        self._optimizer: FusedOptimizer | None = None
        self.members = members or first_members(config.worker_count)
        self._clocks = Clocks(self.members.workers)
        self._pending: Mapping[int, Push] = {}  # BSP: gradients of the step that is not complete
        self._joint = JointSteps(config, self._tensor_norms)

    def clip_with(self, rows: ClippedRows | None) -> None:
        """Clip steps by the norm of the gradients of these rows, too."""
        self._joint.rows = rows

    @property
    def awaits_rows(self) -> bool:
        """Whether a step that is complete here waits for gradients of rows, to be clipped with them."""
        return self.published is not None and self._joint.awaits_rows(self.published.version)

    @property
    def measured(self) -> Mapping[Norms, Measured]:
        """What joint steps wait for; may be read at any moment, as `published`."""
        return self._joint.measured

    @property
    def size_bytes(self) -> int:
        """Memory of values and optimizer state; 0 before there are values."""
        return self.needed_bytes(self.layout) if self.layout else 0

    def needed_bytes(self, layout: FlatLayout) -> int:
        """Return what `size_bytes` is with a model of this layout."""
        size = length(self.held(layout))
        return 4 * size + state_bytes(self.config.optimizer, size)

    def held(self, layout: FlatLayout) -> tuple[range, ...]:
        """Say which values of a model of this layout the shard holds."""
        return (self.map or ShardMap.first(layout.size, self.config.shard_count)).held(
            self.config.shard_index
        )

    def missing_workers(self, need: Need) -> list[int]:
        """Workers whose gradients the next version (BSP), or what `need` asks for (SSP), waits for."""
        if self._joint.held:
            return []
        if self.config.consistency is Consistency.BSP:
            return [worker for worker in self.members.workers if worker not in self._waiting]
        return self._clocks.behind(need.clock)

    @property
    def between_steps(self) -> bool:
        """Whether `state` has all that was taken: no gradient waits for the others of its step, no step for its norm."""
        return not self._waiting and not self._joint.held

    @property
    def waiting(self) -> Sequence[Push] | None:
        """Gradients that wait for the others of their step; None: a complete step waits for its norm."""
        return None if self._joint.held else tuple(self._waiting.values())

    @property
    def _waiting(self) -> Mapping[int, Push]:
        """Gradients that wait for the others of their step, without those that were taken back."""
        return {worker: push for worker, push in self._pending.items() if push.holds}

    def check_gradients(self) -> None:
        """Raise GradientLost if one that waits is not as it was any more, and was not taken back."""
        check_waiting(self._pending)

    def keep_gradients(self, *, logged: bool) -> None:
        """Let no gradient that waits lie in a worker's memory any more; one that is not as it was is left out.

        Args:
            logged: A log says that they were taken, so that none may be left out.
        Raises:
            GradientLost: One would have to be; nothing has changed.
        """
        kept = [(worker, push.kept()) for worker, push in self._pending.items()]
        if logged:
            check_waiting(self._pending)
        self._pending = {worker: push for worker, push in kept if push}

    def initialize(self, layout: FlatLayout, values: Floats) -> None:
        """Take the first values, shape (shard's length,), as version 0; do nothing if there are values already.

        Raises:
            NonFiniteValues: `values` holds a NaN or an infinity.
            ShapeMismatch: The store has values of another layout, or the shape is another.
        """
        if self.published:
            self.check_layout(layout)
            return
        self.check_new()
        size = length(self.held(layout))
        if values.shape != (size,):
            raise ShapeMismatch(
                f"{values.size} values were given; shard {self.config.shard_index} holds {size}"
            )
        check_finite(values, "the first values")
        first = ShardMap.first(layout.size, self.config.shard_count)
        self.layout, self.map = layout, first
        held = first.held(self.config.shard_index)
        self._optimizer = optimizer_for(self.config.optimizer, layout, held, self._memory)
        self._publish(0, self._optimizer.hold(torch.from_numpy(values))[:size])

    def check_new(self) -> None:
        """Raise what keeps the shard from taking first values: FailedPrecondition, or ShardMapChanged if it has left the store."""
        if self.map:
            self.map.fence(0)
        if self.config.joins:
            raise FailedPrecondition(
                f"{self.config.name} takes over values from other shards: call Reshard on one of them"
            )

    def check_layout(self, layout: FlatLayout) -> None:
        """Raise ShapeMismatch if the shard has values of another model."""
        if self.layout is not None and layout != self.layout:
            raise ShapeMismatch(
                f"{self.config.name} holds {len(self.layout.tensors)} tensors with {self.layout.size} values, "
                f"other ones than the {len(layout.tensors)} with {layout.size} given; use a new store for another model"
            )

    def changes_members(self, change: MembersChange) -> bool:
        """Tell whether `change_members` would change anything, or raise what it would; changes nothing."""
        return self._followed(change) is not self.members

    def change_members(self, change: MembersChange) -> bool:
        """Let these workers' gradients count from now on, and no others'; return False, with nothing changed, if they do already.

        Gradients of a step that is not complete are dropped: the new members compute it again, each its new share of the batch.

        Raises:
            InvalidArgument, MembersChanged, AlreadyExists: As `Members.followed_by`.
        """
        members, published = self._followed(change), self.published
        if members is self.members:
            return False
        self.members, self._clocks, self._pending = members, self._clocks.among(change.workers), {}
        if published:
            self._publish(published.version, torch.from_numpy(published.values), published.readers)
        return True

    def _followed(self, change: MembersChange) -> Members:
        version = self.published.version if self.published else 0
        return self.members.followed_by(change.generation, change.workers, version)

    def is_duplicate(self, worker: int, step: int, generation: int = 0) -> bool:
        """Tell whether this worker's gradient for this step was taken before, or comes too late to be.

        Raises:
            FailedPrecondition: The shard has no values yet.
            MembersChanged, Unavailable, InvalidArgument: As `Members.check`.
            OutOfRange: BSP: the step is ahead of the version; SSP: it is too far ahead of the slowest worker.
        """
        if self.published is None:
            raise FailedPrecondition(f"{self.config.name} has no values yet; call Initialize first")
        self.members.check(worker, generation)
        if self.config.consistency is Consistency.BSP:
            return self._is_late(self.published.version, worker, step)
        if step < self._clocks.of(worker):
            return True
        if self.config.consistency is Consistency.SSP:
            self._clocks.check_bound(step, self.config.staleness_bound)
        return False

    def takes(self, push: Push) -> bool:
        """Tell whether `push` would take this gradient, or raise what it would; changes nothing."""
        if self.is_duplicate(push.worker, push.step, push.generation):
            return False
        assert self.published is not None
        check_shape(self.config, push, self.published.values.size, rows=self._joint.rows is not None)
        if not push.holds:
            raise Cancelled(f"worker {push.worker} took the gradient back; nothing was applied")
        return True

    def _is_late(self, version: int, worker: int, step: int) -> bool:
        if step > version:
            raise OutOfRange(
                f"step {step} is ahead of version {version}; pull, then push step {version}",
                metadata={"version": version},
            )
        return step < version or worker in self._waiting or self._joint.held is not None

    def need_for(self, step: int | None, pushed_step: int | None = None) -> Need:
        """Say what the values must hold with which a worker computes `step`, and that hold its own gradient of `pushed_step`.

        Under SSP and ASYNC a gradient was applied, and published, before it was acknowledged.
        """
        if self.config.consistency is Consistency.BSP:
            return Need(version=max(step or 0, 0 if pushed_step is None else pushed_step + 1))
        if self.config.consistency is Consistency.SSP and step is not None:
            return Need(clock=step - self.config.staleness_bound)
        return Need()

    def next_step(self, worker: int, published: Published) -> int:
        """Return the first step that this worker can compute with these values and whose gradient will be taken."""
        return published.version if self.config.consistency is Consistency.BSP else self._clocks.of(worker)

    def push(self, push: Push) -> bool:
        """Take a gradient; return False, with nothing changed, if it was taken before or, under BSP, the step is complete.

        Raises:
            ShapeMismatch: It has another shape than (shard's length,).
            FailedPrecondition, MembersChanged, Unavailable, InvalidArgument, OutOfRange: As `is_duplicate`.
            Cancelled: The worker took it back.
            GradientLost: A gradient was written to while it was applied; the shard is of no use any more.
        """
        if not self.takes(push):
            return False
        pushes = {**self._waiting, push.worker: push}
        required = self.members.required_gradients(self.config.backup_workers)
        if self.config.consistency is not Consistency.BSP or len(pushes) == required:
            self._complete(pushes)
            check_held(pushes)
            pushes = {}
        self._pending = pushes
        return True

    def _complete(self, pushes: Mapping[int, Push]) -> None:
        """Apply the weighted mean of the gradients, or hold it until norms of all shards are known."""
        assert self.published is not None
        assert self._optimizer is not None
        steps = {worker: push.step for worker, push in pushes.items()}
        gradients, maximum = weighted(pushes), self.config.maximum_gradient_norm
        if is_partial(pushes):
            parts = means(pushes, self.published.values.size)
            self._apply(steps, partial(self._optimizer, parts, maximum))
        elif self.config.joint_norms or self._joint.rows:
            self._joint.hold(self.published.version, hold(steps, gradients, None if maximum else 1.0))
            self._finish(self._joint.alone(self.published.version))
        elif maximum:
            held = hold(steps, gradients, None)
            self._apply(steps, whole(self._optimizer, held.clipped(held.squared_norm, maximum).gradients))
        else:
            self._apply(steps, whole(self._optimizer, gradients))

    def _tensor_norms(self, held: HeldStep) -> list[float]:
        assert self.published is not None
        assert isinstance(self._optimizer, LambOptimizer)
        return self._optimizer.squared_norms(torch.from_numpy(self.published.values), held.gradients)

    def waits_for(self, told: StepNorms) -> bool:
        """Tell whether `finish_step` would change anything, or raise what it would; changes nothing."""
        if self.published is None or self.layout is None:
            raise FailedPrecondition(f"{self.config.name} has no values yet; call Initialize first")
        told.check(len(self.layout.tensors))
        return self._joint.wait_for(self.published.version, told)

    def finish_step(self, told: StepNorms) -> bool:
        """Let the complete step that is held go on with these norms; return False, with nothing changed, if it has them already.

        Raises:
            InvalidArgument: No norms can be that.
            FailedPrecondition: The step is not complete, or waits for other norms first.
        """
        if not self.waits_for(told):
            return False
        assert self.published is not None
        ready = self._joint.go_on(self.published.version, told)
        self._finish(ready, told.squared if told.norms is Norms.TENSORS else None)
        return True

    def take_rows(self) -> bool:
        """Go on with a complete step that waited for gradients of rows; return False if there is none, or some are still missing."""
        if not self.awaits_rows:
            return False
        assert self.published is not None
        step = self.published.version
        self._joint.measure(step)
        if self._joint.awaits_rows(step):
            return False
        self._finish(self._joint.alone(step))
        return True

    def _finish(self, ready: HeldStep | None, tensor_norms: Sequence[float] | None = None) -> None:
        """Apply a step that was held, if it is ready, that of rows with it."""
        if ready is None:
            return
        assert self._optimizer is not None
        rows = self._joint.rows
        self._apply(ready.steps, whole(self._optimizer, ready.gradients, tensor_norms))
        if rows:  # after what may fail: there is room for them already
            rows.finish(1.0 if ready.weight is None else ready.weight)

    def _apply(self, steps: Mapping[int, int], update: Update | None) -> None:
        """Publish the next version, an update away."""
        assert self.published is not None
        self.former, former = None, self.published  # the memory of the former version is for the next
        values, bsp = torch.from_numpy(former.values), self.config.consistency is Consistency.BSP
        steps_done = former.version if bsp else self.members.steps_done(former.version)
        overwritten = update and self._overwrites and former.readers.shut()
        if overwritten:
            self._memory.reuse()
        if update:
            values = update(values, self.config.schedule.factor(steps_done))
        self._clocks = self._clocks.after(steps)
        self._publish(former.version + 1, values, None if update else former.readers)
        self.former = former if bsp and not overwritten else None

    @property
    def _overwrites(self) -> bool:
        """Whether a version may take the place of the one before, unless somebody reads that.

        Not if members may ask for the one before, to compute a step again that another shard has not applied; if it must be seen until
        the next is safe; if each push makes another one, so that readers would find none that lasts; or if a user's update may fail.
        """
        config, alone = self.config, self.map is not None and len(self.map.shards) == 1
        in_step = config.consistency is Consistency.BSP and config.durability is Durability.MEMORY
        return alone and in_step and not isinstance(config.optimizer, Registered)

    def _publish(self, version: int, values: torch.Tensor, readers: Readers | None = None) -> None:
        """Make a version known; `readers` are those of the version whose values these are already."""
        slowest, furthest = self._clocks.slowest, self._clocks.furthest
        self.published = Published(version, values.numpy(), slowest, furthest, readers or Readers())

    def state(self) -> ShardState:
        """Return all of it, but the gradients of a step that is not complete.

        Raises:
            FailedPrecondition: There are no values yet.
        """
        if self.published is None or self.layout is None or self.map is None or self._optimizer is None:
            raise FailedPrecondition(f"{self.config.name} has no values to save yet; call Initialize first")
        optimizer, published = self._optimizer.state(), self.published
        if self._overwrites:
            published = replace(published, values=published.values.copy())
        facts = (self.config, self.layout, self.map, self.members)
        # Norms of a step that is held are measured again, once it is.
        norms = {kind: it for kind, it in self.measured.items() if it.step < published.version}
        return ShardState.of(*facts, published, self._clocks, optimizer, norms)

    def restore(self, state: ShardState) -> None:
        """Become what `state` says; gradients of a step that is not complete are dropped.

        Raises:
            InvalidArgument: It is the state of another shard or optimizer.
            ShapeMismatch: It is the state of another model than the one held.
        """
        # The shards of a run that goes on are numbered anew, but each holds what it held.
        state.check_fits(self.config.shard_index, self.config.shard_count, kind_of(self.config.optimizer))
        members = state.members_for(self.config.epoch, self.members)
        index, shard_map = self.config.shard_index, state.map.renumbered()
        self.take_over(replace(state, shard_index=index, map=shard_map, members=members), {})

    def take_over(self, state: ShardState, gradients: Mapping[int, Push]) -> None:
        """Become what `state` says, as it is, with these gradients of the step that is not complete, by worker."""
        self.check_layout(state.layout)
        held = state.map.held(state.shard_index)
        optimizer = optimizer_for(self.config.optimizer, state.layout, held, self._memory)
        optimizer.load(state.optimizer_state)
        self.layout, self.map, self._optimizer = state.layout, state.map, optimizer
        self.members = state.members or self.members
        former = Clocks(tuple(sorted(state.last_steps)) or self.members.workers, state.last_steps)
        self._clocks, self.former = former.among(self.members.workers), None
        rows, self._joint = self._joint.rows, JointSteps(self.config, self._tensor_norms, state.measured)
        self._pending, self._joint.rows = gradients, rows
        self._publish(state.version, optimizer.hold(state.values)[: length(held)])

    def cut(self) -> Cut:
        """Say what the values hold."""
        if self.config.consistency is not Consistency.BSP:
            return self._clocks.all
        return dict.fromkeys(self.members.workers, self.published.version if self.published else 0)

    def standing(self) -> Standing:
        """Say where the shard is in the run."""
        waits = self._joint.held is not None
        cut = {worker: step + waits for worker, step in self.cut().items()}
        return Standing(cut, Pending(frozenset(self._waiting)))

    def part(self, workers: Collection[int]) -> Part:
        """Return all of it that can move, with the gradients of these workers; values are not copied."""
        assert self.published is not None
        assert self._optimizer is not None
        gradients = {worker: self._pending[worker] for worker in sorted(workers)}
        optimizer = self._optimizer.views()
        return Part.of(self.published, self._clocks, self.members, optimizer, gradients)
