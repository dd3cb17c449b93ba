"""Which device a rank takes, and what ranks sum over."""

from pathlib import Path

import pytest
import torch

from headrace.errors import FailedPrecondition
from headrace_training.core.placement import Asked, Backend, backend_of, place_for, shared_backend
from headrace_training.devices import device_for, seat


@pytest.mark.parametrize(
    ("asked", "seat_of_rank", "count", "place"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 0, 2, "cuda:0"),
        ("auto", 1, 2, "cuda:1"),
        ("auto", 5, 2, "cuda:1"),
        ("cpu", 0, 0, "cpu"),
        ("cpu", 1, 2, "cpu"),
        ("cuda", 0, 1, "cuda:0"),
        ("cuda", 3, 1, "cuda:0"),
        ("cuda", 3, 8, "cuda:3"),
    ],
)
def test_ranks_of_a_machine_take_its_devices_in_turn(
    asked: Asked, seat_of_rank: int, count: int, place: str
) -> None:
    assert place_for(asked, seat_of_rank, count, "") == place


def test_a_gpu_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(FailedPrecondition, match="none: torch has no CUDA; choose a pool"):
        place_for("cuda", 0, 0, "torch has no CUDA")


@pytest.mark.parametrize(
    ("marks", "backend"),
    [
        ([0], "gloo"),
        ([7], "nccl"),
        ([0, 0], "gloo"),
        ([7, 8], "nccl"),
        ([7, 7], "gloo"),  # NCCL refuses two ranks on one device
        ([0, 7], "gloo"),
        ([7, 8, 0], "gloo"),
        ([7, 8, 9, 8], "gloo"),
        ([7, 8, 9, 10], "nccl"),
    ],
)
def test_ranks_sum_by_nccl_if_each_has_a_gpu_of_its_own(marks: list[int], backend: Backend) -> None:
    assert backend_of(marks) == backend


@pytest.mark.parametrize(("marks", "backend"), [([0, 0], "gloo"), ([7, 8], "nccl"), ([7], "nccl")])
def test_ranks_with_a_part_each_are_all_on_hosts_or_all_on_gpus(marks: list[int], backend: Backend) -> None:
    assert shared_backend(marks) == backend


@pytest.mark.parametrize("marks", [[7, 7], [7, 0], [7, 8, 8]])
def test_ranks_with_a_part_each_that_must_share_a_gpu_are_refused(marks: list[int]) -> None:
    own = len({mark for mark in marks if mark})
    with pytest.raises(FailedPrecondition, match=f"the {len(marks)} ranks of a fully .* have {own} GPUs"):
        shared_backend(marks)


def test_seats_are_taken_in_order_and_free_again_when_their_holder_ends(tmp_path: Path) -> None:
    room = str(tmp_path)  # which no other process of this machine sits in
    with seat(room) as first, seat(room) as second:
        assert (first, second) == (0, 1)
        with seat(f"{room}/another") as elsewhere:
            assert elsewhere == 0
    with seat(room) as again:
        assert again == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_process_without_a_device_computes_on_the_host_unless_it_must_not() -> None:
    for asked in ("auto", "cpu"):
        with device_for(asked, "") as device:
            assert device.is_host
            assert (device.name, device.mark, device.metrics()) == ("cpu", 0, {})
    with pytest.raises(FailedPrecondition, match="device is cuda, and this node has none: its torch"):
        device_for("cuda", "").__enter__()
