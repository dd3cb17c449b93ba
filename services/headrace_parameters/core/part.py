"""What of a shard moves to another one: vectors of one length, and the facts that decide what becomes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from headrace.errors import FailedPrecondition
from headrace.parameters.layout import Floats
from headrace_parameters.core.clocks import Clocks
from headrace_parameters.core.coverage import is_partial
from headrace_parameters.core.exchange import Published, Push
from headrace_parameters.core.members import Members

VALUES, OPTIMIZER, GRADIENT = "values", "optimizer.", "gradient."  # how vectors are named


@dataclass(frozen=True)
class Facts:
    """All of a part but its vectors.

    Args:
        last_steps: Last step of each worker that was applied, if any was.
        members: Whose gradients count.
        vectors: Names, in their order: `VALUES`, `OPTIMIZER` + name, `GRADIENT` + worker.
        scalars: Numbers of the optimizer's state.
        samples: Weights of the gradients, by worker.
    """

    version: int
    last_steps: Mapping[int, int]
    members: Members
    vectors: Sequence[str]
    scalars: Mapping[str, float]
    samples: Mapping[int, float]

    def with_those_of(self, other: "Facts") -> "Facts":
        """Return the facts of what has values of both: a worker's clock is then the lesser one.

        Raises:
            FailedPrecondition: Nothing can have values of both.
        """
        if replace(self, last_steps={}) != replace(other, last_steps={}):
            raise FailedPrecondition(
                f"the shards are not at one point of the run: versions {self.version} and {other.version}, "
                f"generations {self.members.generation} and {other.members.generation}, optimizers at {dict(self.scalars)} and "
                f"{dict(other.scalars)}; values cannot move between them"
            )
        steps = {worker: min(step, other.last_steps[worker]) for worker, step in self.last_steps.items()}
        return replace(self, last_steps=steps)


@dataclass(frozen=True)
class Part:
    """A shard's vectors by name, shape (shard's length,), and their facts. They are its own: valid while nothing is applied."""

    facts: Facts
    vectors: Mapping[str, Floats]

    @classmethod
    def of(
        cls,
        published: Published,
        clocks: Clocks,
        members: Members,
        optimizer: Mapping[str, torch.Tensor],
        gradients: Mapping[int, Push],
    ) -> "Part":
        """Name what a shard has: its values, its optimizer's state, and gradients of the step that is not complete.

        Raises:
            FailedPrecondition: One of these is for some of the values alone.
        """
        if is_partial(gradients):
            raise FailedPrecondition(
                "a push of a part waits for the others of its step, and cannot move between shards; try again when the step is complete"
            )
        vectors = {VALUES: published.values}
        vectors |= {OPTIMIZER + name: value.numpy() for name, value in optimizer.items() if value.ndim}
        vectors |= {f"{GRADIENT}{worker}": push.gradient for worker, push in gradients.items()}
        facts = Facts(
            version=published.version,
            last_steps={worker: clock - 1 for worker, clock in clocks.all.items()},
            members=members,
            vectors=tuple(vectors),
            scalars={name: value.item() for name, value in optimizer.items() if not value.ndim},
            samples={worker: push.samples for worker, push in gradients.items()},
        )
        return cls(facts, vectors)
