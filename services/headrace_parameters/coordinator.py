"""Leading all shards of a store from one shard map to the next.

The coordinator is one of the store's shards, and the moment it changes to the next map is the moment that decides: until then whatever
fails leaves the old map in force everywhere; from then on every shard that has staged changes too, when it is told or when it asks.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from typing import Any, TypeVar

import structlog

from headrace.errors import HeadraceError
from headrace.parameters.cut import latest
from headrace.parameters.v1 import resharding_pb2
from headrace.parameters.v1.resharding_pb2 import ParticipateRequest, ParticipateResponse
from headrace_parameters.core.standing import Standing, complete_gradients
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
    """

    def __init__(self, own: Participant, peers: Peers, sources: Sources, timeout_s: float) -> None:
        self._own = own
        self._peers = peers
        self._sources = sources
        self._timeout_s = timeout_s
        self._over = threading.Event()  # nothing comes of it

    def lead(self) -> float:
        """Change all shards to the plan's next map; return for how many seconds pushes waited.

        Raises:
            DeadlineExceeded: Workers did not bring all shards to one point of the run in time.
            HeadraceError: What else kept it from being. The old map is in force.
        """
        began = time.monotonic()
        with ThreadPoolExecutor(thread_name_prefix="reshard") as threads, ExitStack() as streams:
            try:
                others = self._others(streams)
                self._stage(_Company(self._own, others, threads))
                self._own.commit()
            except BaseException:
                streams.close()  # the others see that, and those that have staged ask
                self._stop(threads)
                self._own.give_up()
                raise
            self._spread(others, threads)
        self._own.clear()
        return time.monotonic() - began

    def _stop(self, threads: ThreadPoolExecutor) -> None:
        """Return when the own shard takes no step any more: one that fails elsewhere may find it amid its own."""
        self._over.set()
        self._own.move.look_again()
        threads.shutdown()

    def _others(self, streams: ExitStack) -> dict[int, Steps]:
        plan = self._own.plan
        addresses = {**plan.next.addresses, **plan.now.addresses}
        return {
            shard: streams.enter_context(self._peers.participating(address, self._timeout_s))
            for shard, address in addresses.items()
            if shard != plan.coordinator
        }

    def _stage(self, company: "_Company") -> None:
        """Let every shard put its next self together, from one and the same point of the run."""
        plan, own, store = self._own.plan, self._own, self._own.store
        first = ParticipateRequest(
            store=str(store.config.name), epoch=store.config.epoch, hold=plan_to_proto(plan)
        )
        cut = latest([standing.cut for standing in company.stand(first, own.move.standing)])
        settled = company.stand(
            ParticipateRequest(settle=resharding_pb2.Settle(next_steps=cut)),
            lambda: own.settle(cut, self._timeout_s, self._over.is_set),
        )
        kept = complete_gradients(settled)
        company.do(ParticipateRequest(stage=stage_to_proto(kept)), lambda: own.stage(kept, self._sources))

    def _spread(self, others: Mapping[int, Steps], threads: ThreadPoolExecutor) -> None:
        """Tell the others what has been decided; who cannot be told will ask."""
        request = ParticipateRequest(commit=resharding_pb2.Commit())
        told = {shard: threads.submit(steps.take, request) for shard, steps in others.items()}
        for shard, answer in told.items():
            try:
                answer.result()
            except HeadraceError as error:
                log.warning(
                    "commit_not_heard", store=str(self._own.store.config.name), shard=shard, why=str(error)
                )


class _Company:
    """All participants, doing the same step at once."""

    def __init__(self, own: Participant, others: Mapping[int, Steps], threads: ThreadPoolExecutor) -> None:
        self._own = own
        self._others = others
        self._threads = threads

    def do(
        self, request: ParticipateRequest, own: Callable[[], Own]
    ) -> tuple[Own, dict[int, ParticipateResponse]]:
        """Do a step everywhere; raise the first failure without waiting for the others, who hear of it when their streams end."""
        running: dict[Future[ParticipateResponse], int] = {
            self._threads.submit(steps.take, request): shard for shard, steps in self._others.items()
        }
        mine = self._threads.submit(own)
        everything: list[Future[Any]] = [mine, *running]
        for done in as_completed(everything):
            done.result()
        return mine.result(), {shard: answer.result() for answer, shard in running.items()}

    def stand(self, request: ParticipateRequest, own: Callable[[], Standing]) -> list[Standing]:
        """Do a step, and return where the shards are that have values now."""
        mine, answers = self.do(request, own)
        held = self._own.plan.now.shards
        return [mine] + [
            standing_from_proto(answer.standing) for shard, answer in answers.items() if shard in held
        ]
