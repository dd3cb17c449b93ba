"""What the rank that leads does alone is done by another one, if it is lost: also after the last step."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from headrace.testing import FakeClock
from headrace_optimizers.config import Sgd
from headrace_training.core.agreement import Member
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.local_sgd import LocalSgd
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best, Selection
from tests.unit.training.hall import Generation, Hall, Killed, Visitor
from tests.unit.training.lockstep_group import Shelf
from tests.unit.training.test_early_stopping import Peaking
from tests.unit.training.test_training_ranks import Heard

STEPS, EVERY = 12, 4
RUN = Run(steps=STEPS, batch_size=16, seed=3, world_size=2, checkpoint_every=EVERY, evaluate_every=EVERY)
SGD = Sgd(0.1, 0.9)
MEETING = 3  # sums with which a run begins: of models, of how far each rank is, of the first values


def train(run: Run, hall: Hall, heard: list[Heard], *, local: bool = False) -> list[tuple[int, str]]:
    """Run two ranks; return what was done at the end, in that order: rank, and whether it has registered or just ended."""
    ends: list[tuple[int, str]] = []

    def one(number: int) -> None:
        member, visitor = Member(number, founder=True), Visitor(hall, number)
        synchronizer = (
            LocalSgd(EVERY, STEPS, visitor.join, SGD, Shelf(), member=member)
            if local
            else AllReduce(visitor.join, SGD, Shelf(), member=member)
        )
        with contextlib.suppress(Killed), synchronizer:
            rank = Rank(Peaking(), replace(run, rank=number), synchronizer, heard[number], FakeClock())
            rank.train()
            ends.append((number, "registered" if rank.leads else "ended"))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one, number) for number in (0, 1)]:
            done.result(timeout=60)
    return ends


@pytest.mark.parametrize("local", [False, True])
def test_the_others_stay_until_the_result_is_registered(local: bool) -> None:
    heard = [Heard(), Heard()]
    assert train(RUN, Hall([Generation((0, 1))]), heard, local=local) == [(0, "registered"), (1, "ended")]
    assert [each.steps[-1] for each in heard] == [STEPS, STEPS]
    assert [len(each.evaluations) for each in heard] == [3, 0]


def test_if_the_one_that_leads_dies_while_it_registers_another_does() -> None:
    heard = [Heard(), Heard()]
    last = MEETING + STEPS + 1  # the one that says that the result is safe
    hall = Hall([Generation((0, 1), last, dead=frozenset({0})), Generation((1,))])
    assert train(RUN, hall, heard) == [(0, "registered"), (1, "registered")]
    assert heard[1].led_from == STEPS
    assert [step for step, _ in heard[1].evaluations] == [STEPS]


def test_the_next_one_evaluates_and_saves_from_the_step_the_other_was_lost_in() -> None:
    heard = [Heard(), Heard(found=Best(EVERY, "accuracy", 0.9))]
    hall = Hall([Generation((0, 1), MEETING + 6, dead=frozenset({0})), Generation((1,))])
    assert train(RUN, hall, heard) == [(1, "registered")]
    assert heard[1].led_from == 5
    assert [step for step, _ in heard[1].evaluations] == [8, 12]
    assert [step for step, _ in heard[1].checkpoints] == [8, 12]
    assert heard[1].steps == list(range(1, STEPS + 1)), "none is missing, and none is done twice"


def test_a_run_that_was_over_early_stays_over_when_the_one_that_leads_dies() -> None:
    """It found its best at its third evaluation, in step 12, and nothing better in the next two."""
    run = replace(RUN, steps=100, selection=Selection(patience=2))
    heard = [Heard(), Heard(found=Best(12, "accuracy", 1.0))]
    last = MEETING + 20 + 2  # one sum says that the run is over, the next one that the result is safe
    hall = Hall([Generation((0, 1), last, dead=frozenset({0})), Generation((1,))])
    assert train(run, hall, heard) == [(0, "registered"), (1, "registered")]
    assert heard[1].led_from == heard[1].steps[-1] == 20
