"""Five times as many requests as the workers can serve, on a clock of its own: what is let in is answered in time."""

import heapq
import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from headrace.errors import HeadraceError
from headrace_inference.core.batch_queue import BatchQueue
from headrace_inference.core.batching import Batching, Request, Turn
from tests.unit.inference.served_queue import request


@dataclass(frozen=True)
class Machine:
    """Workers whose runs take `fixed_s + each_s * rows`, give or take a fifth; rows can be joined if `max_size` > 1."""

    fixed_s: float
    each_s: float
    workers: int = 1
    max_size: int = 32

    @property
    def peak(self) -> float:
        """Rows per second when every batch is full."""
        return self.workers * self.max_size / self.run_s

    @property
    def run_s(self) -> float:
        """How long a full batch takes."""
        return self.fixed_s + self.each_s * self.max_size


@dataclass
class Simulation:
    """Poisson arrivals from 20 callers; every request has a row, and `patience_s` from its arrival on."""

    machine: Machine
    patience_s: float
    queue: BatchQueue[Request] = field(init=False)
    answered: int = 0
    late: int = 0
    refused_after_s: list[float] = field(default_factory=list)

    def run(self, load: float, seconds: float, seed: int = 0) -> None:
        """Offer `load` times the peak for so long."""
        self.queue = BatchQueue(
            Batching(self.machine.workers, self.machine.max_size, max_waiting=4096), joins=True
        )
        random = np.random.default_rng(seed)
        self._numbers = itertools.count()
        self._ends: list[tuple[float, int, float, Turn[Request]]] = []
        self._learn()
        now = 0.0
        while (now := now + random.exponential(1 / (load * self.machine.peak))) < seconds:
            self._end_batches(now, random)
            one = request(deadline=now + self.patience_s, caller=int(random.integers(20)))
            try:
                self._begin(self.queue.offer(one, now), now, random)
            except HeadraceError:
                self.refused_after_s.append(0.0)

    def _learn(self) -> None:
        """Let the queue have seen how long one row and a full batch take; the machine has not begun only now."""
        for rows in (1, self.machine.max_size):
            turn = self.queue.offer(request(rows), 0)
            self.queue.finish(turn, 0, self.machine.fixed_s + self.machine.each_s * rows)

    def _end_batches(self, now: float, random: np.random.Generator) -> None:
        while self._ends and self._ends[0][0] <= now:
            end, _, run_s, turn = heapq.heappop(self._ends)
            in_time = sum(one.deadline >= end for one in turn.batch)
            self.answered += in_time
            self.late += len(turn.batch) - in_time
            self._begin(self.queue.finish(turn, end, run_s), end, random)

    def _begin(self, turn: Turn[Request], now: float, random: np.random.Generator) -> None:
        self.refused_after_s += [now - one.request.arrived for one in turn.dropped]
        if turn.batch:
            run_s = (self.machine.fixed_s + self.machine.each_s * turn.rows) * random.uniform(0.8, 1.2)
            heapq.heappush(self._ends, (now + run_s, next(self._numbers), run_s, turn))


MACHINES = (
    Machine(fixed_s=0.001, each_s=0.0001),
    Machine(fixed_s=0.0075, each_s=0.0, workers=4, max_size=1),
    Machine(fixed_s=0.0, each_s=0.0075, workers=2, max_size=4),
    Machine(fixed_s=0.02, each_s=0.001, workers=2),
)


def simulate(machine: Machine, *, load: float, patience_s: float, requests: int = 6000) -> Simulation:
    simulation = Simulation(machine, patience_s)
    simulation.run(load, seconds=requests / (load * machine.peak))
    return simulation


@pytest.mark.parametrize("runs", [5, 20])
@pytest.mark.parametrize("machine", MACHINES)
def test_at_five_times_the_peak_goodput_stays_and_the_rest_is_refused_at_once(
    machine: Machine, runs: int
) -> None:
    """Callers wait as long as `runs` full batches take."""
    simulation = simulate(machine, load=5, patience_s=runs * machine.run_s)
    refused_after_s = np.array(simulation.refused_after_s)
    assert simulation.answered >= 0.8 * 6000 / 5
    assert np.mean(refused_after_s < 0.05) >= 0.99


@pytest.mark.parametrize("machine", MACHINES)
def test_at_half_the_peak_nobody_is_refused(machine: Machine) -> None:
    simulation = simulate(machine, load=0.5, patience_s=20 * machine.run_s, requests=3000)
    assert not simulation.refused_after_s
    assert not simulation.late
