"""A group of ranks in memory, and a shelf for their checkpoints."""

import threading
from dataclasses import dataclass, field

import torch

from headrace.errors import Unavailable
from headrace_training.core.state import TrainingState

WAIT_S = 30.0


class Meeting:
    """What the ranks of a group share."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=WAIT_S)
        self.given: dict[int, torch.Tensor] = {}
        self.note = ""

    def wait(self) -> None:
        try:
            self.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise Unavailable("lost touch with another rank") from error


@dataclass
class LockstepGroup:
    rank: int
    size: int
    meeting: Meeting

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        self.meeting.given[self.rank] = vector.clone()
        self.meeting.wait()
        total = torch.stack([self.meeting.given[rank] for rank in range(self.size)]).sum(0)
        self.meeting.wait()
        vector.copy_(total)

    def tell(self, note: str) -> None:
        self.meeting.note = self.meeting.note or note

    def note(self) -> str:
        return self.meeting.note

    def vanish(self) -> None:
        """Go without a word, as a killed process does."""
        self.meeting.barrier.abort()


def lockstep_groups(size: int) -> list[LockstepGroup]:
    meeting = Meeting(size)
    return [LockstepGroup(rank, size, meeting) for rank in range(size)]


@dataclass
class Shelf:
    states: dict[str, TrainingState] = field(default_factory=dict)

    def save(self, state: TrainingState) -> str:
        tensors, metadata = state.encode()
        copy = {name: tensor.clone() for name, tensor in tensors.items()}
        self.states[f"state-{state.step}"] = TrainingState.decode(copy, metadata)
        return f"state-{state.step}"

    def load(self, artifact: str) -> TrainingState:
        return self.states[artifact]
