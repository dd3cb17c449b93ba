"""The hash index of rows against a dictionary, under whatever order of calls Hypothesis finds."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.parameters.keys import Keys, mix
from headrace_parameters.core.rows.hash_index import HashIndex
from headrace_parameters.core.rows.memory import ENTRY_BYTES, SEGMENT_BYTES

SIZES = st.integers(1, 9_000)
SEEDS = st.integers(0, 5)
SEGMENT_KEYS = SEGMENT_BYTES // 8


class Index(RuleBasedStateMachine):
    """Keys come in thousands, so that segments fill up, overflow and split."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = np.zeros(1 << 18, np.uint64)  # by slot
        self.index = HashIndex(lambda: self.keys)
        self.slots: dict[int, int] = {}
        self.free: list[int] = []

    @initialize(dense=st.booleans())
    def choose_keys(self, dense: bool) -> None:
        self.spread = 1 if dense else 7_777_777_777

    def chosen(self, size: int, seed: int) -> Keys:
        drawn = np.random.default_rng(seed).choice(40_000, size, replace=False)
        return drawn.astype(np.uint64) * np.uint64(self.spread)

    @rule(size=SIZES, seed=SEEDS)
    def insert(self, size: int, seed: int) -> None:
        new = np.array([key for key in self.chosen(size, seed).tolist() if key not in self.slots], np.uint64)
        slots: list[int] = []
        for _ in range(new.size):
            slots.append(self.free.pop() if self.free else len(self.slots) + len(slots))
        self.keys[slots] = new
        self.index.make_room(new)
        self.index.insert(new, np.array(slots, np.int64))
        self.slots |= dict(zip(new.tolist(), slots, strict=True))

    @rule(size=SIZES, seed=SEEDS)
    def remove(self, size: int, seed: int) -> None:
        old = np.array([key for key in self.chosen(size, seed).tolist() if key in self.slots], np.uint64)
        self.index.remove(old)
        self.free += [self.slots.pop(key) for key in old.tolist()]

    @rule(size=SIZES, seed=SEEDS)
    def find(self, size: int, seed: int) -> None:
        keys = self.chosen(size, seed)
        assert self.index.find(keys)[0].tolist() == [self.slots.get(key, -1) for key in keys.tolist()]

    @invariant()
    def memory_is_bounded_by_the_keys_it_ever_held(self) -> None:
        held = len(self.slots) + len(self.free)
        assert self.index.size_bytes <= max(2, 4 * held / SEGMENT_KEYS) * SEGMENT_BYTES


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def index_of(keys: Keys) -> HashIndex:
    index = HashIndex(lambda: keys)
    index.make_room(keys)
    index.insert(keys, np.arange(keys.size))
    return index


def test_keys_with_the_same_hash_entry_are_told_apart() -> None:
    """Two keys whose hashes agree in bucket and fingerprint: about one pair in 2**43, so they are searched for by undoing the hash."""
    keys = np.array([unmix(0xABCDEF01_23400000 | low) for low in (1, 1 << 1, 1 << 2)], np.uint64)
    assert len({int(key) >> 20 for key in mix(keys)}) == 1

    index = index_of(keys)
    assert index.find(keys)[0].tolist() == [0, 1, 2]
    assert index.find(np.array([unmix(0xABCDEF01_23400000)], np.uint64))[0].tolist() == [-1]

    index.remove(keys[1:2])
    assert index.find(keys)[0].tolist() == [0, -1, 2]


def test_a_bucket_that_is_full_overflows_into_the_next_and_the_last_into_the_first() -> None:
    last_bucket = ((1 << 12) - 1) << 20
    keys = np.array([unmix(number << 32 | last_bucket) for number in range(1, 41)], np.uint64)

    index = index_of(keys)
    assert index.find(keys)[0].tolist() == list(range(40))

    index.remove(keys[:8])  # from the first bucket, which others have overflowed
    assert index.find(keys)[0].tolist() == [-1] * 8 + list(range(8, 40))


def test_a_million_keys_are_found_again_and_none_that_was_not_there() -> None:
    keys = mix(np.arange(1_000_000, dtype=np.uint64))

    index = index_of(keys)

    assert (index.find(keys)[0] == np.arange(keys.size)).all()
    assert (index.find(keys + np.uint64(1))[0] == -1).all()
    assert index.size_bytes <= ENTRY_BYTES * keys.size + SEGMENT_BYTES


def unmix(hashed: int) -> int:
    """Undo SplitMix64, each step of which can be undone."""
    mask = (1 << 64) - 1
    z = hashed
    z ^= (z >> 31) ^ (z >> 62)
    z = (z * pow(0x94D049BB133111EB, -1, 1 << 64)) & mask
    z ^= (z >> 27) ^ (z >> 54)
    z = (z * pow(0xBF58476D1CE4E5B9, -1, 1 << 64)) & mask
    z ^= (z >> 30) ^ (z >> 60)
    return (z - 0x9E3779B97F4A7C15) & mask
