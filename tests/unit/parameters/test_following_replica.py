"""A replica follows its primary's records, and is what that was when it takes its place."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from headrace.errors import FailedPrecondition
from headrace_parameters.core.config import Consistency, Durability
from headrace_parameters.core.kinds import Change
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.rows.push import TablePush
from headrace_parameters.core.tenure import Assignment, Role
from headrace_parameters.replicated_store import ReplicatedStore
from tests.unit.parameters.journal_files import config, push_of
from tests.unit.parameters.row_journal import in_memory, row_push, table

BASE, TERM = 4, 1


@pytest.fixture
def replica() -> ReplicatedStore:
    """A replica that begins with first values and an empty table."""
    settings = config(Consistency.BSP)
    with_assignment = replace(
        settings, durability=Durability.REPLICA, assignment=Assignment(TERM, Role.REPLICA)
    )
    store = ReplicatedStore(with_assignment, datetime.now(UTC))
    store.follow_base(TERM, BASE, in_memory(settings, table()).state())
    return store


def follow(store: ReplicatedStore, *changes: Change) -> None:
    for number, change in enumerate(changes, BASE + 1):
        store.follow(TERM, number, Sealed.of(change))


def rows(step: int, worker: int) -> TablePush:
    return TablePush("users", row_push(step, worker))


def test_a_replica_that_is_promoted_says_how_far_its_tables_are(replica: ReplicatedStore) -> None:
    follow(replica, rows(0, 0), rows(0, 1), push_of(0, 0), push_of(0, 1))
    replica.replicated.caught_up(TERM)

    replica.assign(Assignment(TERM + 1, Role.PRIMARY))

    assert replica.published
    users = replica.tables["users"]
    assert replica.published.version == users.progress.version == users.facts().version == 1
    assert users.next_step(0) == 1


@pytest.mark.parametrize("change", [push_of(1), push_of(0, worker=7), rows(1, 0)])
def test_a_record_that_the_replica_would_refuse_makes_it_begin_anew(
    replica: ReplicatedStore, change: Change
) -> None:
    """The primary has taken it, so what is here is not what is there: the same record would come again and again."""
    follow(replica, push_of(0))
    replica.replicated.caught_up(TERM)

    with pytest.raises(FailedPrecondition, match=r"does not fit .*: the replica begins anew"):
        replica.follow(TERM, BASE + 2, Sealed.of(change))

    assert replica.replicated.held is None
    assert not replica.replicated.tenure.synced
