"""Answers that come later are settled once, and told to whoever waits."""

import threading

import pytest

from headrace.rpc.deferred import Deferred, answers_later, is_declared_to_answer_later


def test_whoever_waits_gets_the_answer_that_another_thread_gives() -> None:
    deferred = Deferred[int]()
    settling = threading.Thread(target=deferred.settle, args=(7,))
    settling.start()
    assert deferred.wait() == 7
    assert deferred.settled
    settling.join()


def test_whoever_waits_for_a_failed_one_gets_the_error() -> None:
    deferred = Deferred[int]()
    deferred.fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        deferred.wait()


def test_callbacks_come_once_in_the_thread_that_settles_or_at_once_if_that_has_happened() -> None:
    deferred = Deferred[int]()
    told: list[str] = []
    deferred.then(lambda: told.append("before"))
    assert not told
    assert deferred.settle(1)
    assert not deferred.settle(2)
    assert not deferred.fail(ValueError())
    deferred.then(lambda: told.append("after"))
    assert told == ["before", "after"]
    assert deferred.wait() == 1


def test_a_mapped_answer_is_made_by_whoever_waits_and_fails_with_what_it_is_made_from() -> None:
    deferred, told = Deferred[int](), list[str]()
    mapped = deferred.map(lambda value: [value])
    mapped.then(lambda: told.append("settled"))
    deferred.settle(3)
    assert told == ["settled"]
    assert mapped.wait() == [3]
    failed = Deferred[int]()
    failed.fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        failed.map(str).wait()


def test_a_method_says_of_itself_that_it_answers_later() -> None:
    class Servicer:
        @answers_later
        def Later(self) -> None: ...

        def Now(self) -> None: ...

    assert is_declared_to_answer_later(Servicer().Later)
    assert not is_declared_to_answer_later(Servicer().Now)
