"""What one rank of a run has to do, in plain values."""

from dataclasses import dataclass

from headrace_training.core.selection import Best, Selection


@dataclass(frozen=True)
class Run:
    """One rank's part of a training run; all fields but `rank` are the same in every rank.

    Steps count optimizer updates from 0; those before `start_step` were applied by an earlier attempt. `batch_size` counts
    examples per step over all ranks. The two `every` count steps; 0 means never (evaluation: only at the end).
    """

    steps: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    start_step: int = 0
    checkpoint_every: int = 0
    evaluate_every: int = 0
    accumulate: int = 1  # micro-batches per step
    bf16: bool = False  # model and loss compute with bfloat16 where that is enough
    checkpoint_activations: bool = False  # the backward pass computes them again, block by block
    fully_sharded: bool = False  # each rank holds a part of the model
    compile_model: bool = False  # by torch.compile
    selection: Selection | None = None  # None: the last values are what the run is for
    best: Best | None = None  # what earlier attempts found
    peak_flops: float = 0.0  # FLOPs per second that the rank could do at most; 0: its utilization is not told

    def checkpoints_between(self, before: int, done: int) -> bool:
        """Whether a checkpoint is due after `done` steps, the last look having been after `before`."""
        return _passes_multiple(before, done, self.checkpoint_every)

    def evaluates_between(self, before: int, done: int) -> bool:
        """Whether an evaluation is due after `done` steps, the last look having been after `before`."""
        return done == self.steps or _passes_multiple(before, done, self.evaluate_every)


def _passes_multiple(before: int, done: int, every: int) -> bool:
    return every > 0 and done // every > before // every
