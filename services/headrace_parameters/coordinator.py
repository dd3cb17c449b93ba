"""Leading all shards of a store from one shard map to the next.

The coordinator is one of the store's shards, and the moment it changes to the next map is the moment that decides: until then whatever
fails leaves the old map in force everywhere; from then on every shard that has staged changes too, when it is told or when it asks.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from headrace.errors import Aborted, HeadraceError
from headrace.parameters.cut import latest
from headrace.parameters.v1 import resharding_pb2
from headrace.parameters.v1.resharding_pb2 import ParticipateRequest, ParticipateResponse
from headrace_parameters.core.standing import Point, Standing, complete_gradients
from headrace_parameters.moving_wire import plan_to_proto, stage_to_proto, standing_from_proto
from headrace_parameters.participant import Participant, Sources
from headrace_parameters.peers import Peers, Steps

log = structlog.get_logger(__name__)
Own = TypeVar("Own")


class Coordinator:
    """Leads the participants of one plan, of which `own` is its own shard.

    Args:
        sources: Give this process parts of other shards.
        timeout_s: For everything up to the decision.
        find_out: Called with `own` if it alone cannot know how it ends.
    """

    def __init__(
        self,
        own: Participant,
        peers: Peers,
        sources: Sources,
        timeout_s: float,
        find_out: Callable[[Participant], object],
    ) -> None:
        self._own = own
        self._peers = peers
        self._sources = sources
        self._timeout_s = timeout_s
        self._find_out = find_out
        self._over = threading.Event()  # nothing comes of it
        self._agreed = False  # all are ready, and the own replica may have been told to change

    def lead(self) -> float:
        """Change all shards to the plan's next map; return for how many seconds pushes waited.

        Raises:
            DeadlineExceeded: Workers did not bring all shards to one point of the run in time.
            Aborted: What comes of it is not known yet.
            HeadraceError: What else kept it from being. The old map is in force.
        """
        began = time.monotonic()
        seats = len(self._own.plan.addresses) + len(self._own.plan.replicas)  # all do a step at once
        with ThreadPoolExecutor(seats, thread_name_prefix="reshard") as threads, ExitStack() as streams:
            try:
                others = self._others(streams)
                self._stage(_Company(self._own, others, threads))
                self._decide(others)
            except BaseException:
                streams.close()  # the others see that, and those that have staged ask
                self._stop(threads)
                self._find_out(self._own) if self._agreed else self._own.give_up()
                raise
            self._spread(others, threads)
        self._own.clear()
        return time.monotonic() - began

    def _stop(self, threads: ThreadPoolExecutor) -> None:
        """Return when the own shard takes no step any more: one that fails elsewhere may find it amid its own."""
        self._over.set()
        self._own.move.look_again()
        threads.shutdown()

    def _decide(self, others: "Mapping[Seat, Steps]") -> None:
        """Change to the next map: first the replica, which could no more be told that it was decided, then the own shard."""
        own = self._own
        replica = others.get(Seat(own.plan.coordinator, replica=True))
        if replica is None:
            own.commit()
            return
        own.move.agree()
        self._agreed = True
        try:
            replica.take(ParticipateRequest(commit=resharding_pb2.Commit()))
            own.commit()
        except HeadraceError as error:
            name = own.store.config.name
            raise Aborted(
                f"whether {name} goes by shard map {own.plan.next.epoch} is not known yet: {error.message}; ask again"
            ) from error

    def _others(self, streams: ExitStack) -> "dict[Seat, Steps]":
        plan = self._own.plan
        seats = {
            Seat(shard): address for shard, address in plan.addresses.items() if shard != plan.coordinator
        }
        seats |= {Seat(shard, replica=True): address for shard, address in plan.replicas.items()}
        return {
            seat: streams.enter_context(self._peers.participating(address, self._timeout_s))
            for seat, address in seats.items()
        }

    def _stage(self, company: "_Company") -> None:
        """Let every shard put its next self together, from one and the same point of the run."""
        plan, own, store = self._own.plan, self._own, self._own.store
        first = ParticipateRequest(
            store=str(store.config.name), epoch=store.config.epoch, hold=plan_to_proto(plan)
        )
        held = company.stand(first, own.move.standing)
        cut = latest([held[shard].cut for shard in plan.now.shards])
        settled = company.stand(
            ParticipateRequest(settle=resharding_pb2.Settle(next_steps=cut)),
            lambda: own.settle(cut, self._timeout_s, self._over.is_set),
        )
        kept = complete_gradients([settled[shard] for shard in plan.now.shards])
        # What a replica has at this moment may be less: its primary's last record says when it has caught up.
        point = Point(kept, {shard: standing.record for shard, standing in settled.items()})
        company.do(ParticipateRequest(stage=stage_to_proto(point)), lambda: own.stage(point, self._sources))

    def _spread(self, others: "Mapping[Seat, Steps]", threads: ThreadPoolExecutor) -> None:
        """Tell the others what has been decided; who cannot be told will ask."""
        request = ParticipateRequest(commit=resharding_pb2.Commit())
        told = {
            seat: threads.submit(steps.take, request)
            for seat, steps in others.items()
            if seat != Seat(self._own.plan.coordinator, replica=True)
        }
        for seat, answer in told.items():
            try:
                answer.result()
            except HeadraceError as error:
                name = str(self._own.store.config.name)
                log.warning(
                    "commit_not_heard", store=name, shard=seat.shard, replica=seat.replica, why=str(error)
                )


@dataclass(frozen=True)
class Seat:
    """Who takes part: the process that serves a shard, or its replica."""

    shard: int
    replica: bool = False


class _Company:
    """All participants, doing the same step at once."""

    def __init__(self, own: Participant, others: Mapping[Seat, Steps], threads: ThreadPoolExecutor) -> None:
        self._own = own
        self._others = others
        self._threads = threads

    def do(
        self, request: ParticipateRequest, own: Callable[[], Own]
    ) -> tuple[Own, dict[Seat, ParticipateResponse]]:
        """Do a step everywhere; raise the first failure without waiting for the others, who hear of it when their streams end."""
        running: dict[Future[ParticipateResponse], Seat] = {
            self._threads.submit(steps.take, request): seat for seat, steps in self._others.items()
        }
        mine = self._threads.submit(own)
        everything: list[Future[Any]] = [mine, *running]
        for done in as_completed(everything):
            done.result()
        return mine.result(), {seat: answer.result() for answer, seat in running.items()}

    def stand(self, request: ParticipateRequest, own: Callable[[], Standing]) -> dict[int, Standing]:
        """Do a step, and return where the shards are, as those who serve them say."""
        mine, answers = self.do(request, own)
        found = {
            seat.shard: standing_from_proto(answer.standing)
            for seat, answer in answers.items()
            if not seat.replica
        }
        return {self._own.plan.coordinator: mine, **found}
