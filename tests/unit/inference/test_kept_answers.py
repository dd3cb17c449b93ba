"""Answers are kept by content: what differs in anything is another request."""

import numpy as np
import pytest

from headrace.inference.tensors import Array
from headrace_inference.core.answers import Answers, digest_of, kept_bytes

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_equal_request_gets_the_same_answer() -> None:
    answers, digest = Answers(1000), digest_of({"x": X}, ("y",))
    assert answers.find(digest) is None
    answers.keep(digest, {"y": X * 2})
    found = answers.find(digest_of({"x": X.copy()}, ("y",)))
    assert found is not None
    assert found["y"].tolist() == (X * 2).tolist()
    assert (answers.hits, answers.misses) == (1, 1)


def test_an_answer_is_kept_from_whoever_got_it_first() -> None:
    answers, given = Answers(1000), X.copy()
    answers.keep(b"digest", {"y": given})
    given[:] = 0
    found = answers.find(b"digest")
    assert found is not None
    assert found["y"].tolist() == X.tolist()
    with pytest.raises(ValueError, match="read-only"):
        found["y"][:] = 0


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"x": X + 1}, ("y",)),
        ({"x": X.reshape(3, 2)}, ("y",)),
        ({"x": X.view(np.int32)}, ("y",)),
        ({"z": X}, ("y",)),
        ({"x": X, "z": X}, ("y",)),
        ({"x": X}, ("z",)),
        ({"x": X}, ("y", "z")),
    ],
    ids=["values", "shape", "type", "name", "one more", "other output", "more outputs"],
)
def test_what_differs_in_anything_is_another_request(
    inputs: dict[str, Array], outputs: tuple[str, ...]
) -> None:
    assert digest_of(inputs, outputs) != digest_of({"x": X}, ("y",))


def test_texts_are_told_apart_by_where_they_end() -> None:
    one, other = (np.array(texts, np.object_) for texts in ([b"ab", b"c"], [b"a", b"bc"]))
    assert digest_of({"x": one}, ()) != digest_of({"x": other}, ())


def test_what_was_used_longest_ago_is_forgotten() -> None:
    answers = Answers(2 * kept_bytes({"y": X}))
    for name in (b"a", b"b"):
        answers.keep(name, {"y": X})
    answers.find(b"a")
    answers.keep(b"c", {"y": X})
    assert [name for name in (b"a", b"b", b"c") if answers.find(name)] == [b"a", b"c"]


def test_an_answer_too_large_is_not_kept() -> None:
    answers = Answers(kept_bytes({"y": X}) - 1)
    answers.keep(b"a", {"y": X})
    assert answers.find(b"a") is None


@pytest.mark.parametrize("y", [np.empty((0, 3)), np.zeros(()), np.array([b""], np.object_)])
def test_answers_of_no_or_few_bytes_are_bounded_too(y: Array) -> None:
    answers = Answers(10_000)
    for number in range(100):
        answers.keep(b"%d" % number, {"y": y})
    kept = [number for number in range(100) if answers.find(b"%d" % number) is not None]
    assert kept[-1] == 99
    assert len(kept) < 20
