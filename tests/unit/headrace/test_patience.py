import pytest

from headrace.testing import until


def test_a_wait_ends_when_the_condition_holds() -> None:
    answers = iter([False, False, True])
    until(lambda: next(answers))
    assert list(answers) == []


def test_a_wait_for_what_never_holds_fails_the_test() -> None:
    asked: list[None] = []
    with pytest.raises(AssertionError, match=r"within 0\.02 s"):
        until(lambda: asked.append(None), within_s=0.02)
    assert len(asked) > 1
