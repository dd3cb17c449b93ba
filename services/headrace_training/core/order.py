"""The order in which a run sees its data: the same for every rank, and for every attempt, given the seed."""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class DataOrder:
    """Shuffles the examples anew for each epoch; each epoch shows every example exactly once.

    The last batch of an epoch has what is left, so it may be smaller.
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        """Order `examples` >= 1 examples in batches of `batch_size` >= 1."""
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._permutation: Indices = np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that show every example once."""
        return -(-self._examples // self._batch_size)

    def batch(self, step: int) -> Indices:
        """Return the examples of a step, over all ranks, shape (at most batch_size,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._examples)
            self._epoch = epoch
        return self._permutation[place * self._batch_size :][: self._batch_size]

    def share(self, step: int, rank: int, world_size: int) -> Indices:
        """Return the examples of a step that are `rank`'s: every `world_size`-th, beginning with the rank's own number.

        Empty when the batch has fewer examples than there are ranks.
        """
        return self.batch(step)[rank::world_size]


def noise_seed(seed: int, rank: int, step: int) -> int:
    """Return the seed of a rank's random numbers in one step, dropout for example: they depend on nothing that came before."""
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])
