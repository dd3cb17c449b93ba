"""Memory is used again when nothing refers to it any more, and not a moment before."""

import numpy as np
import pytest
import torch

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.segments import MappedSegment
from headrace_parameters.core.config import Sgd
from headrace_parameters.core.optimizer import FusedOptimizer
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.recycled import PrivateMemory, Recycled


def test_memory_in_use_is_not_given_again() -> None:
    recycled = Recycled(PrivateMemory)
    first, values = recycled.take(8)
    part = torch.from_numpy(values)[2:4].numpy()  # all that is left is a slice of a tensor of it
    del values

    second, _ = recycled.take(8)
    del part
    third, _ = recycled.take(8)

    assert second is not first
    assert third in (first, second)


def test_memory_of_another_size_is_not_given() -> None:
    recycled = Recycled(PrivateMemory)
    _, values = recycled.take(8)
    del values

    assert recycled.take(9)[1].shape == (9,)


def test_versions_alternate_between_two_segments() -> None:
    memory = PublishedMemory()
    published = memory.allocate(100)
    nonces = set()
    for version in range(10):
        following = memory.allocate(100)
        following.fill(version)
        published = following
        nonces.add(memory.locate(published[:90]).segment.nonce)

    assert len(nonces) == 2


def test_a_reader_finds_the_values_and_notices_when_they_change() -> None:
    memory = PublishedMemory()
    values = memory.allocate(4)
    values[:] = [1, 2, 3, 4]
    where = memory.locate(values)
    mapped = MappedSegment(where.segment)

    assert mapped.part(where).tolist() == [1, 2, 3, 4]
    assert mapped.is_current(where)
    del values
    memory.allocate(4)
    assert not mapped.is_current(where)


def test_values_from_elsewhere_are_not_located() -> None:
    with pytest.raises(SharedMemoryUnavailable):
        PublishedMemory().locate(np.zeros(3, np.float32))


@pytest.mark.parametrize("size", [64, 65, (1 << 16) + 1, 3 << 16])
def test_gradients_are_summed_in_order_each_product_rounded(size: int) -> None:
    """To the bit: a run must not depend on how a vector is cut."""
    random = np.random.default_rng(size)
    gradients = [random.normal(size=size).astype(np.float32) for _ in range(3)]
    weights = [0.2, 0.5, 0.3]
    optimizer = FusedOptimizer(Sgd(learning_rate=1.0), size)
    expected = np.zeros(size, np.float32)
    for gradient, weight in zip(gradients, weights, strict=True):
        expected += gradient * np.float32(weight)

    pairs = [
        (torch.from_numpy(gradient), weight) for gradient, weight in zip(gradients, weights, strict=True)
    ]
    values = optimizer.apply(torch.zeros(size), pairs)

    assert np.array_equal(values.numpy(), -expected)
