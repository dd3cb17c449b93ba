"""Who takes part in a run: workers come and go, and each change makes a new generation."""

from dataclasses import dataclass, replace
from typing import Any

from headrace.errors import AlreadyExists, InvalidArgument, MembersChanged, Unavailable

MOST_WORKERS = 1024


@dataclass(frozen=True)
class Members:
    """The workers whose gradients count, as of one generation.

    A worker's number is never given to another one in the same epoch: so a worker that was left out, and does not know it, can
    neither be taken for its successor nor have any effect.

    Args:
        generation: 0 for those that the store was made for; each change has a greater one.
        workers: Their numbers, ascending; one or more.
        since_version: The store's version when the generation began.
        since_step: Steps that all members together had done then, where every push is a version.
    """

    generation: int
    workers: tuple[int, ...]
    since_version: int = 0
    since_step: int = 0

    def check(self, worker: int, generation: int) -> None:
        """Let only members pass that know who the others are.

        Raises:
            MembersChanged, Unavailable: As `check_generation`.
            InvalidArgument: There is no such worker.
        """
        self.check_generation(generation)
        if worker not in self.workers:
            raise InvalidArgument(
                f"worker is {worker}; this store has workers {_listed(self.workers)}", field="header.worker"
            )

    def check_generation(self, generation: int) -> None:
        """Let only callers of this generation pass.

        Raises:
            MembersChanged: The caller's is older.
            Unavailable: It is newer: this shard has not heard of it yet.
        """
        if generation < self.generation:
            raise self.changed_since(generation)
        if generation > self.generation:
            raise Unavailable(
                f"the members are of generation {self.generation} here, the caller's of {generation}; try again soon"
            )

    def changed_since(self, generation: int) -> MembersChanged:
        """Tell a caller of an older generation what to do."""
        return MembersChanged(
            f"the workers are {_listed(self.workers)} in generation {self.generation}, the caller's generation is {generation}; "
            "nothing was applied: take your place among them and compute the step again, or stop if you are none of them",
            metadata={"generation": self.generation, "workers": ",".join(map(str, self.workers))},
        )

    def followed_by(self, generation: int, workers: tuple[int, ...], version: int) -> "Members":
        """Return the next generation; the same one if it is this.

        Args:
            version: The store's.
        Raises:
            InvalidArgument: They are no members.
            MembersChanged: There is a newer generation.
            AlreadyExists: This generation has other workers.
        """
        if workers != tuple(sorted(set(workers))) or not 1 <= len(workers) <= MOST_WORKERS:
            raise InvalidArgument(
                f"workers is {list(workers)}; give 1 to {MOST_WORKERS} numbers, ascending", field="workers"
            )
        if generation < self.generation:
            raise self.changed_since(generation)
        if generation == self.generation:
            if workers != self.workers:
                raise AlreadyExists(
                    f"generation {generation} has workers {_listed(self.workers)}; use a greater one to change them",
                    field="generation",
                )
            return self
        return Members(generation, workers, version, self.steps_done(version))

    def required_gradients(self, backup_workers: int) -> int:
        """Return how many gradients complete a step under BSP: one at least, however few workers there are."""
        return max(1, len(self.workers) - backup_workers)

    def going_on(self, saved: "Members", version: int) -> "Members":
        """Return these members as those of a store that goes on from `version`, which `saved` led to: their steps count on."""
        if len(self.workers) == len(saved.workers):
            since = saved.since_version, saved.since_step
        else:
            since = version, saved.steps_done(version)
        return replace(self, since_version=since[0], since_step=since[1])

    def steps_done(self, version: int) -> int:
        """Return how many steps make `version`, where every push is a version and a step has one push of each worker."""
        return self.since_step + (version - self.since_version) // len(self.workers)

    @classmethod
    def read(cls, facts: dict[str, Any] | None) -> "Members | None":
        """Read what `asdict` gave; None: nobody had written it."""
        return cls(**{**facts, "workers": tuple(facts["workers"])}) if facts else None


@dataclass(frozen=True)
class MembersChange:
    """Who the members are from a generation on."""

    generation: int
    workers: tuple[int, ...]


def first_members(count: int) -> Members:
    """Return workers 0 to `count` - 1, whom a store is made for."""
    return Members(0, tuple(range(count)))


def _listed(workers: tuple[int, ...]) -> str:
    """Write "0 to 3", or "0, 2, 3" where there are gaps."""
    first, last = workers[0], workers[-1]
    if len(workers) > 1 and len(workers) == last - first + 1:
        return f"{first} to {last}"
    return ", ".join(map(str, workers))
