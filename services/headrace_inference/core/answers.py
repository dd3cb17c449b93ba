"""Answers kept by the content of their requests, for models that are declared to answer equal requests alike."""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from headrace.inference.tensors import Array, raw_view
from headrace_inference.core.batching import Arrays

# What Python takes to keep an answer beside its elements: of small ones by far the most.
ANSWER_BYTES, ARRAY_BYTES = 512, 256


class Answers:
    """The answers of one loaded model, the least recently used of which are forgotten. Its caller locks.

    Args:
        max_bytes: Most bytes of all answers together; larger ones are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Arrays] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def find(self, digest: bytes) -> Arrays | None:
        """Return the answer to an equal request, in arrays that nobody may write to."""
        answer = self._kept.get(digest)
        if answer is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(digest)
        return answer

    def keep(self, digest: bytes, answer: Arrays) -> None:
        """Keep an answer; it is copied."""
        size = kept_bytes(answer)
        if size > self._max_bytes or digest in self._kept:
            return
        self._kept[digest] = {name: _frozen(array) for name, array in answer.items()}
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= kept_bytes(oldest)


def digest_of(inputs: Arrays, outputs: Sequence[str]) -> bytes:
    """Return what is equal for two requests only if all their values, types, shapes and wishes are."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(inputs):
        array = inputs[name]
        for fact in (name, array.dtype.str, array.shape):
            digest.update(repr(fact).encode())
        digest.update(raw_view(array))
    digest.update(repr(tuple(outputs)).encode())
    return digest.digest()


def kept_bytes(answer: Mapping[str, Array]) -> int:
    """Count the bytes that a kept answer takes, about; of elements of BYTES their own too."""
    return ANSWER_BYTES + sum(ARRAY_BYTES + array.nbytes + _element_bytes(array) for array in answer.values())


def _element_bytes(array: Array) -> int:
    return sum(map(sys.getsizeof, array.flat)) if array.dtype == np.object_ else 0


def _frozen(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy
