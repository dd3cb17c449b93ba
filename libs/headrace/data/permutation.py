"""A permutation of any size that needs no memory: where each place leads is computed when it is asked for."""

from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_ROUNDS = 6  # four make a Feistel network pseudo-random for a good round function (Luby and Rackoff 1988); two more are cheap


class Permutation:
    """A pseudo-random permutation of 0 to `size` - 1, chosen by `key`.

    A Feistel network permutes the next power of 4; places that it sends beyond `size` walk on until they are within
    (cycle walking: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains). So a step deep in an epoch of a billion rows costs as
    much as the first one.
    """

    def __init__(self, size: int, *key: int) -> None:
        """Choose the permutation of `size` >= 0 places by the integers `key`, each >= 0."""
        self._size = np.uint64(size)
        half_bits = max(1, -(-(max(size, 2) - 1).bit_length() // 2))
        self._half = np.uint64(half_bits)
        self._mask = np.uint64((1 << half_bits) - 1)
        self._keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, places: Int64s) -> Int64s:
        """Return where each of `places`, each in 0 to `size` - 1, leads."""
        values = self._network(places.astype(np.uint64))
        while (outside := values >= self._size).any():
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: _Words) -> _Words:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (mixed(right ^ key) & self._mask)
        return (left << self._half) | right


def mixed(words: npt.NDArray[Any]) -> _Words:
    """Scatter 64-bit words so that every bit of the result depends on every bit of the word.

    Source: the finalizer of SplitMix64, Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators.
    """
    bits: _Words = words.astype(np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
