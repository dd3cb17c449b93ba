"""Permutations of any size that need no memory: where each place leads is computed when it is asked for."""

from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_ROUNDS = 8  # four make a Feistel network pseudo-random for a good round function (Luby and Rackoff 1988); more are cheap


class Permutation:
    """A pseudo-random permutation of 0 to `size` - 1, chosen by a key."""

    def __init__(self, size: int, *key: int) -> None:
        """Choose the permutation of `size` >= 0 places by the integers `key`, each >= 0."""
        self._size, self._keys = np.array([size]), round_keys(*key)

    def __call__(self, places: Int64s) -> Int64s:
        """Return where each of `places`, each in 0 to `size` - 1, leads."""
        return permuted(places, np.broadcast_to(self._size, places.shape), self._keys)


def round_keys(*key: int) -> _Words:
    """Spread integers >= 0 over the words that `permuted` wants, shape (rounds, 1)."""
    words: _Words = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    return words[:, None]


def keys_of(keys: _Words, which: Int64s) -> _Words:
    """Return keys for many permutations, one for each of the numbers `which`, shape (rounds, len(which)); the same number has the same keys."""
    return mixed(keys + which.astype(np.uint64))


def permuted(places: Int64s, sizes: Int64s, keys: _Words) -> Int64s:
    """Return where each place leads in a permutation of its own, which its size and its keys choose.

    A Feistel network over two halves that count modulo a and b, where a * b is the least such product that is not below the size with
    a = ceil(sqrt(size)); the few places that it sends beyond the size walk on until they are within. So a step deep in an epoch of a
    billion rows costs as much as the first one.

    Args:
        places: Shape (n,), each in 0 to its size - 1.
        sizes: Shape (n,).
        keys: Shape (rounds, n) or (rounds, 1).
    Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains, method 3 with cycle walking.
    """
    found = _network(places, sizes, keys)
    while len(outside := np.flatnonzero(found >= sizes)):
        own = keys if keys.shape[1] == 1 else keys[:, outside]
        found[outside] = _network(found[outside], sizes[outside], own)
    return found


def _network(places: Int64s, sizes: Int64s, keys: _Words) -> Int64s:
    high = np.ceil(np.sqrt(np.maximum(sizes, 1))).astype(np.uint64)
    low = (sizes.astype(np.uint64) + high - np.uint64(1)) // high
    low = np.maximum(low, np.uint64(1))
    left, right = np.divmod(places.astype(np.uint64), low)
    for number, key in enumerate(keys):
        if number % 2:
            left = (left + mixed(right ^ key) % high) % high
        else:
            right = (right + mixed(left ^ key) % low) % low
    led: Int64s = (left * low + right).astype(np.int64)
    return led


def mixed(words: npt.NDArray[Any]) -> _Words:
    """Scatter 64-bit words so that every bit of the result depends on every bit of the word.

    Source: the finalizer of SplitMix64, Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators.
    """
    bits: _Words = words.astype(np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
