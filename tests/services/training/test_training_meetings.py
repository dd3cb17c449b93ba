"""Ranks meet again although somebody of the generation before never came to it, and wait for each other as long as they must."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from queue import SimpleQueue

import pytest
import torch

from headrace.errors import MembersChanged
from headrace.testing.patience import until
from headrace.training.v1.workers_pb2 import Lead, SetMembersRequest, StartTaskRequest
from headrace.types.v1.task_pb2 import Task
from headrace_training.core.device import HOST
from headrace_training.core.group import AS_LONG_AS_IT_TAKES
from headrace_training.device_group import meet_on_devices
from headrace_training.gloo import GlooGroup, Store, c10d, gloo_group
from headrace_training.interruption import Interruptible
from headrace_training.meetings import Meetings
from headrace_training.nccl import NcclGroup
from headrace_training.rendezvous import connect

ADDRESS, WAIT_S = "127.0.0.1", 30.0
TASK = "projects/default/tasks/run-1-train-0"


def members(generation: int, ranks: tuple[int, ...]) -> bytes:
    return SetMembersRequest(generation=generation, members=ranks, lead=Lead(task=TASK)).SerializeToString()


def store_of(address: str, generation: int) -> Store:
    return c10d.PrefixStore(f"{TASK}/1/{generation}", connect(address, WAIT_S))


def test_the_one_that_leads_meets_the_next_members_while_it_still_waits_for_one_that_is_gone() -> None:
    told: SimpleQueue[Task] = SimpleQueue()
    lead = Meetings(StartTaskRequest(name=TASK, rank=0, epoch=1), ADDRESS, WAIT_S, told.put)
    with ThreadPoolExecutor(1) as pool:
        lead.hear(members(1, (0, 1)))
        in_vain = pool.submit(lead.join)
        address = told.get(timeout=WAIT_S).rendezvous
        until(connect(address, WAIT_S).num_keys)  # it says where it is, and waits for the other one to do so
        lead.hear(members(2, (0, 2)))
        with pytest.raises(MembersChanged):
            in_vain.result(WAIT_S)

        met = pool.submit(lead.join)
        other = meet_on_devices(store_of(address, 2), 1, 2, ADDRESS, HOST, WAIT_S, Interruptible())
        mine, its = torch.ones(1), torch.ones(1)
        summed = pool.submit(met.result(WAIT_S).sum, mine)
        other.sum(its)
        summed.result(WAIT_S)

        assert mine.item() == its.item() == 2
        # So that no thread is left waiting.
        GlooGroup(store_of(address, 1), 1, 2, ADDRESS, WAIT_S, Interruptible())


def test_a_sum_may_take_longer_than_a_step() -> None:
    """The other rank measures and registers the result meanwhile, say."""
    store, step_s = c10d.HashStore(), 0.1
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(GlooGroup, store, rank, 2, ADDRESS, WAIT_S, Interruptible()) for rank in (0, 1)]
        stays, registers = (each.result(WAIT_S) for each in made)
        for group in (stays, registers):  # only now: on a busy machine a meeting takes longer
            group._timeout_s = step_s
            group._group._set_default_timeout(timedelta(seconds=step_s))
        mine, its = torch.ones(1), torch.ones(1)
        waits = pool.submit(stays.sum, mine, AS_LONG_AS_IT_TAKES)
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 5 * step_s)
        registers.sum(its, WAIT_S)
        waits.result(WAIT_S)
    assert mine.item() == its.item() == 2


def test_gpus_sum_by_a_backend_of_their_own_that_can_be_given_up() -> None:
    """By gloo, in the place of NCCL: how the two are told what to do is alike."""

    def make(store: Store, rank: int, size: int, timeout_s: float) -> object:
        return gloo_group(store, rank, size, ADDRESS, timeout_s)

    store = c10d.HashStore()
    with ThreadPoolExecutor(2) as pool:
        made = [
            pool.submit(NcclGroup, store, rank, 2, HOST, WAIT_S, Interruptible(), make) for rank in (0, 1)
        ]
        first, second = (each.result(WAIT_S) for each in made)
        mine, its = torch.ones(3), torch.full((3,), 2.0)
        summed = pool.submit(first.sum, mine)
        second.sum(its)
        summed.result(WAIT_S)
    assert mine.tolist() == its.tolist() == [3, 3, 3]
    first.abort()
    second.abort()
