"""Where the shards of a job are now: the scheduler, which moves them, knows."""

from collections.abc import Sequence

from headrace.errors import HeadraceError
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA
from headrace.rpc.channel import open_channel
from headrace.scheduler.v1.jobs_pb2 import GetJobRequest
from headrace.scheduler.v1.jobs_pb2_grpc import JobsStub

_ANSWER_S = 2.0  # from memory; while the scheduler is away, no shard moves


class ShardFinder:
    """Asks the scheduler.

    Args:
        job: Whose shards they are.
        epoch: The attempt: where those of another one are is nobody's business here.
    """

    def __init__(self, scheduler_address: str, job: str, epoch: int) -> None:
        self._address = scheduler_address
        self._job = job
        self._epoch = epoch

    def __call__(self, shard: int) -> Sequence[str]:
        """Return the addresses of a shard's primary and of its replica, if it has one; nothing if they cannot be learned."""
        try:
            with open_channel(self._address) as channel:
                job = JobsStub(channel).GetJob(GetJobRequest(name=self._job), timeout=_ANSWER_S)
        except HeadraceError:
            return ()
        if job.attempt != self._epoch:
            return ()
        held = {place.role: place.address for place in job.placements if place.index == shard and place.role}
        return [held[role] for role in (STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA) if role in held]
