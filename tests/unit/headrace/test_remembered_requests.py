"""The memory of requests: what a repeated one gets."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import MetaData

from headrace.database import RememberedRequests, open_engine, writing
from headrace.errors import InvalidArgument, NotFound, RequestIdReused


class Remember(Protocol):
    def __call__(
        self,
        request_id: str,
        body: bytes,
        produce: Callable[[], bytes],
        *,
        method: str = "m",
        project: str = "p",
    ) -> bytes: ...


@pytest.fixture
def remember(tmp_path: Path) -> Remember:
    engine = open_engine(f"sqlite:///{tmp_path}/requests.db")
    metadata = MetaData()
    requests = RememberedRequests(metadata)
    metadata.create_all(engine)

    def remember(
        request_id: str, body: bytes, produce: Callable[[], bytes], *, method: str = "m", project: str = "p"
    ) -> bytes:
        with writing(engine) as connection:
            return requests.remember(
                connection,
                now=0,
                method=method,
                project=project,
                request_id=request_id,
                body=body,
                produce=produce,
            )

    return remember


def never() -> bytes:
    raise AssertionError("a known request was worked on again")


def test_a_repeated_request_gets_the_first_answer(remember: Remember) -> None:
    assert remember("r1", b"body", lambda: b"first") == b"first"
    assert remember("r1", b"body", never) == b"first"


def test_another_body_under_the_same_id_is_refused(remember: Remember) -> None:
    remember("r1", b"body", lambda: b"first")
    with pytest.raises(RequestIdReused, match="'r1' was used for another m request") as caught:
        remember("r1", b"other", never)
    assert caught.value.field == "request_id"


def test_ids_belong_to_a_method_and_a_project(remember: Remember) -> None:
    remember("r1", b"body", lambda: b"first")
    assert remember("r1", b"other", lambda: b"second", method="n") == b"second"
    assert remember("r1", b"other", lambda: b"third", project="q") == b"third"


def test_without_an_id_nothing_is_remembered(remember: Remember) -> None:
    assert remember("", b"body", lambda: b"first") == b"first"
    assert remember("", b"body", lambda: b"second") == b"second"


@pytest.mark.parametrize("request_id", ["x" * 129, "\0"])
def test_an_id_that_no_database_could_keep_is_refused(remember: Remember, request_id: str) -> None:
    remember("x" * 128, b"body", lambda: b"first")
    with pytest.raises(InvalidArgument) as caught:
        remember(request_id, b"body", never)
    assert caught.value.field == "request_id"


def test_a_failed_request_may_be_tried_again(remember: Remember) -> None:
    def fail() -> bytes:
        raise NotFound("not yet")

    with pytest.raises(NotFound):
        remember("r1", b"body", fail)
    assert remember("r1", b"body", lambda: b"now") == b"now"


def test_the_second_of_two_simultaneous_requests_waits_for_the_first(remember: Remember) -> None:
    inside, go_on = threading.Event(), threading.Event()
    answers: list[bytes] = []

    def slow() -> bytes:
        inside.set()
        assert go_on.wait(10)
        return b"first"

    threads = [threading.Thread(target=lambda: answers.append(remember("r1", b"body", slow)))]
    threads[0].start()
    assert inside.wait(10)
    threads.append(threading.Thread(target=lambda: answers.append(remember("r1", b"body", never))))
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert answers == [b"first", b"first"]


def test_the_table_forgets_answers_by_age(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/requests.db")
    metadata = MetaData()
    requests = RememberedRequests(metadata)
    metadata.create_all(engine)
    with writing(engine) as connection:
        for now in (0.0, 100.0):
            requests.remember(
                connection,
                now=now,
                method="m",
                project="p",
                request_id=f"r{now}",
                body=b"",
                produce=lambda: b"",
            )
        assert requests.prune(connection, now=110.0, keep_s=50) == 1
        assert requests.prune(connection, now=110.0, keep_s=50) == 0


def test_an_answer_and_its_change_are_kept_or_lost_together(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/requests.db")
    metadata = MetaData()
    requests = RememberedRequests(metadata)
    metadata.create_all(engine)

    def mutate(answer: bytes, *, fails: bool) -> bytes:
        with writing(engine) as connection:
            remembered = requests.remember(
                connection, now=0, method="m", project="p", request_id="r", body=b"", produce=lambda: answer
            )
            if fails:
                raise NotFound("something the mutation needs later")
            return remembered

    with pytest.raises(NotFound):
        mutate(b"lost", fails=True)
    assert mutate(b"kept", fails=False) == b"kept"
