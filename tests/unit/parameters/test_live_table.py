"""What others are told of a table while it changes."""

import pytest

from headrace_parameters.live_table import LiveTable
from headrace_parameters.safety import Safety
from tests.unit.parameters.row_journal import durable, row_push, table


class SlowlySafe:
    """A store whose changes are safe only when the test has done something meanwhile."""

    def __init__(self) -> None:
        self.meanwhile: list[LiveTable] = []

    def positions(self) -> tuple[int, ...]:
        return (1,)

    def wait_until_safe(self, positions: tuple[int, ...]) -> None:
        if self.meanwhile:
            users = self.meanwhile.pop()
            users.become(users.restored(None, users._shard.turns.members))


@pytest.mark.parametrize("told", [LiveTable.show, lambda users: users.scan(0, 10)], ids=["push", "scan"])
def test_what_was_seen_before_a_restore_is_not_told_after_it(told: object) -> None:
    kept = SlowlySafe()
    users = LiveTable(durable(), table(), lambda _: None, safety=Safety(kept))
    users.push(row_push(0))
    kept.meanwhile.append(users)

    assert callable(told)
    told(users)

    assert users.facts().version == users.progress.version == 0
    users.push(row_push(0))
    users.show()
    assert users.progress.version == 1
