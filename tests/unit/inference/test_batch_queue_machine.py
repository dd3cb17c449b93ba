"""Whatever callers, workers and time do: the queue against a plain list of what waits."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.errors import DeadlineExceeded, HeadraceError
from headrace_inference.core import waiting as waiting_module
from headrace_inference.core.batch_queue import BatchQueue
from headrace_inference.core.batching import Batching, OnTimeout, QueuePolicy, Request, Turn
from tests.unit.inference.served_queue import request

PATIENCE = 2  # instead of 16, so that few steps show it


class Queue(RuleBasedStateMachine):
    """No request is lost or run twice, nobody waits beside an idle worker, and what is bounded stays so."""

    @initialize(
        batching=st.builds(
            Batching,
            workers=st.integers(1, 3),
            max_size=st.integers(1, 5),
            max_waiting=st.integers(1, 12),
            max_delay_s=st.sampled_from([0, 0, 2]),
            levels=st.just(3),
            policies=st.just({3: QueuePolicy(timeout_s=3, on_timeout=OnTimeout.DELAY)}),
            max_wait_s=st.sampled_from([math.inf, 4]),
        ),
        joins=st.booleans(),
    )
    def begin(self, batching: Batching, joins: bool) -> None:
        self.batching = batching
        self.joins = joins and batching.max_size > 1
        self.delays = self.joins and batching.max_delay_s > 0
        self.queue: BatchQueue[Request] = BatchQueue(batching, joins=joins)
        self.now = 0.0
        self.waiting: list[Request] = []
        self.running: list[Turn[Request]] = []
        self.passed: Counter[int] = Counter()

    @rule(
        rows=st.integers(0, 7),
        width=st.integers(1, 2),
        caller=st.integers(0, 2),
        priority=st.integers(0, 4),
        patience_s=st.sampled_from([0, 1, 5, math.inf]),
        timeout_s=st.sampled_from([0, 2]),
    )
    def offer(self, patience_s: float, **options: Any) -> None:
        one = request(deadline=self.now + patience_s, **options)
        self.waiting.append(one)
        try:
            self._note(self.queue.offer(one, self.now))
        except HeadraceError:
            self.waiting.remove(one)

    @rule(data=st.data(), infer_s=st.sampled_from([None, 0.5, 3.0]))
    def finish(self, data: st.DataObject, infer_s: float | None) -> None:
        if not self.running:
            return
        turn = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self._note(self.queue.finish(turn, self.now, infer_s))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if not self.waiting:
            return
        one = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.queue.withdraw(one)
        assert not self.queue.withdraw(one)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._note(self.queue.next_turn(self.now))

    def _note(self, turn: Turn[Request]) -> None:
        """Take note of a turn, and of what is due at once therefore."""
        self._take(turn)
        while self.queue.due() <= self.now:
            self._take(self.queue.next_turn(self.now))

    def _take(self, turn: Turn[Request]) -> None:
        for dropped in turn.dropped:
            self.waiting.remove(dropped.request)
            if isinstance(dropped.error, DeadlineExceeded):
                assert min(dropped.request.deadline, dropped.request.arrived + 2) <= self.now + 4
        if turn.batch:
            self._check(turn)
            self.running.append(turn)

    def _check(self, turn: Turn[Request]) -> None:
        for one in turn.batch:
            self.waiting.remove(one)  # raises if it ran before, or never came
            assert one.deadline > self.now
        kinds = {one.inputs["x"].shape[1] for one in turn.batch}
        assert len(kinds) == 1
        if len(turn.batch) > 1:
            assert self.joins
            assert turn.rows <= self.batching.max_size
        self._check_order(turn)
        self._check_levels(turn)

    def _check_order(self, turn: Turn[Request]) -> None:
        """Of one caller, one level and one shape, who came first goes first, unless his time in the queue was over."""
        for one in turn.batch:
            for other in self.waiting:
                same = one.level == other.level != 3 and one.terms.caller == other.terms.caller
                if same and one.kind == other.kind:
                    assert one.number < other.number

    def _check_levels(self, turn: Turn[Request]) -> None:
        if not turn.batch[0].level:
            return  # it never waited
        leads = turn.batch[0].level
        others = {one.level for one in self.waiting}
        assert all(level >= leads for level in others) or self.passed[leads] >= PATIENCE
        for level in (1, 2, 3):
            self.passed[level] = self.passed[level] + 1 if level in others - {leads} else 0
            assert self.passed[level] <= PATIENCE + 3

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.waiting == len(self.waiting) <= self.batching.max_waiting
            assert len(self.running) <= self.batching.workers
            assert self.queue.idle == (not self.waiting and not self.running)

    @invariant()
    def nobody_waits_beside_an_idle_worker(self) -> None:
        if hasattr(self, "queue") and self.waiting and len(self.running) < self.batching.workers:
            assert self.delays
            assert self.now - min(one.arrived for one in self.waiting) < self.batching.max_delay_s

    @invariant()
    def the_alarm_is_set_for_later(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.due() > self.now

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        for _ in range(100):
            self.now += 10
            self._note(self.queue.next_turn(self.now))
            while self.running:
                self._note(self.queue.finish(self.running.pop(), self.now))
        assert self.queue.idle
        assert not self.waiting


@pytest.fixture(autouse=True)
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "PATIENCE", PATIENCE)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
