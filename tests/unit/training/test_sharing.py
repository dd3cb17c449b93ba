"""Tensors of one rank reach the others as they are, whatever they hold: the buffers of a model may be anything."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from headrace_training.core.group import Sharing
from tests.unit.training.lockstep_group import LockstepGroup, lockstep_groups

EXACT = {
    "float32": torch.tensor([[1.5, float("inf")], [-2.0, 1e-38]]),
    "float64": torch.tensor([1 / 3], dtype=torch.float64),
    "bfloat16": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
    "complex64": torch.tensor([[1 + 2j, -3.5j]]),
    "complex128": torch.tensor(1 / 3 + 1j / 7, dtype=torch.complex128),
    "conjugated": torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "greatest integer": torch.tensor([2**63 - 1, -(2**53) - 1]),
    "byte": torch.tensor([0, 255], dtype=torch.uint8),
    "boolean": torch.tensor([True, False]),
    "empty": torch.empty(0, dtype=torch.complex64),
}


def shared(source: torch.Tensor, memory: int) -> list[torch.Tensor]:
    """Return what two ranks have that take the tensor of a third one."""
    groups = lockstep_groups(3)
    tensors = [torch.zeros_like(source), source.clone(), torch.zeros_like(source)]

    def share(group: LockstepGroup, tensor: torch.Tensor) -> None:
        Sharing(group, 1, torch.ones(memory)).share(tensor, takes=group.rank != 1)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(share, *each) for each in zip(groups, tensors, strict=True)]:
            done.result(timeout=60)
    assert torch.equal(tensors.pop(1), source)
    return tensors


@pytest.mark.parametrize("memory", [0, 64])
@pytest.mark.parametrize("kind", EXACT)
def test_a_tensor_of_any_type_arrives_exactly(kind: str, memory: int) -> None:
    for taken in shared(EXACT[kind], memory):
        assert torch.equal(taken, EXACT[kind])
