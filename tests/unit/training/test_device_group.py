"""What ranks on devices sum over: with a group of GPUs that is played by one in memory."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch

from headrace.errors import Unavailable
from headrace.testing import FakeClock
from headrace_optimizers.config import AdamW
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.device import HOST, Device
from headrace_training.core.group import Group
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.device_group import DeviceGroup, Gpus
from tests.unit.training.apart import Apart
from tests.unit.training.lockstep_group import LockstepGroup, Shelf, lockstep_groups
from tests.unit.training.small_program import Small
from tests.unit.training.test_training_ranks import Heard


@dataclass
class Told(LockstepGroup):
    """Remembers how many values were summed."""

    sizes: list[int] = field(default_factory=list)
    aborted: bool = False

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        self.sizes.append(len(vector))
        super().sum(vector, timeout_s)

    def abort(self) -> None:
        self.aborted = True


def alone() -> Told:
    (group,) = lockstep_groups(1)
    return Told(0, 1, group.meeting)


def test_what_lies_on_the_host_is_summed_there() -> None:
    hosts, gpus = alone(), alone()
    DeviceGroup(hosts, HOST, gpus).sum(torch.ones(5))
    assert (hosts.sizes, gpus.sizes) == ([5], [])


def test_gpus_sum_what_lies_on_them_once_all_ranks_are_there() -> None:
    hosts, gpus = alone(), alone()
    DeviceGroup(hosts, Apart(), gpus).sum(torch.ones(5))
    assert (hosts.sizes, gpus.sizes) == ([1], [5])


def test_no_gpu_waits_for_a_rank_that_is_gone() -> None:
    gpus = alone()
    mine, other = (Told(each.rank, 2, each.meeting) for each in lockstep_groups(2))
    other.vanish()
    with pytest.raises(Unavailable):
        DeviceGroup(mine, Apart(), gpus).sum(torch.ones(5))
    assert gpus.sizes == []


def test_a_group_that_is_given_up_lets_no_gpu_wait() -> None:
    gpus = alone()
    DeviceGroup(alone(), Apart(), gpus).abort()
    DeviceGroup(alone(), Apart(), None).abort()
    assert gpus.aborted


def train(devices: list[Device], gpus: list[LockstepGroup] | None) -> list[Rank]:
    """Train by all-reduce, all ranks in threads."""
    run = Run(steps=8, batch_size=15, seed=3)
    ranks = []
    for number, (group, device) in enumerate(zip(lockstep_groups(len(devices)), devices, strict=True)):
        own: Gpus | None = Told(number, len(devices), gpus[number].meeting) if gpus else None
        shared = DeviceGroup(group, device, own)
        synchronizer = AllReduce(partial(_itself, shared), AdamW(1e-2), Shelf())
        mine = replace(run, rank=number, world_size=len(devices))
        ranks.append(Rank(Small(), mine, synchronizer, Heard(), FakeClock(), device=device))
    with ThreadPoolExecutor(len(ranks)) as pool:
        for done in [pool.submit(rank.train) for rank in ranks]:
            done.result(timeout=60)
    return ranks


def _itself(group: Group) -> Group:
    return group


def test_training_on_devices_by_either_backend_ends_at_the_bits_of_the_host() -> None:
    (plain, _) = train([HOST, HOST], None)

    by_gpus = train([Apart(), Apart()], lockstep_groups(2))
    by_hosts = train([Apart(), HOST], None)

    for rank in (*by_gpus, *by_hosts):
        assert torch.equal(rank.model.values, plain.model.values)
