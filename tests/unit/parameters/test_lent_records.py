"""Records on their way to a replica whose payload a worker has lent."""

from headrace_parameters.core.outbox import Outbox, Record
from headrace_parameters.core.tenure import Role, Tenure
from headrace_parameters.replication.replicated import Replicated


class Lent:
    """A loan that holds until it ends."""

    def __init__(self) -> None:
        self.over = False

    def holds(self) -> bool:
        return not self.over


def in_new_memory(payload: memoryview) -> memoryview:
    return memoryview(bytes(payload))


def records(outbox: Outbox) -> list[Record]:
    return [item for item in outbox if isinstance(item, Record)]


def test_a_payload_that_is_kept_is_as_it_was_and_in_its_place() -> None:
    outbox, lent = Outbox(), bytearray(b"lent")
    outbox.add(b"1", memoryview(b"own"))
    outbox.add(b"2", memoryview(lent), Lent())

    assert outbox.keep_loans(in_new_memory)
    lent[:] = b"next"

    assert [(each.number, bytes(each.payload), each.loan) for each in records(outbox)] == [
        (1, b"own", None),
        (2, b"lent", None),
    ]


def test_a_payload_that_was_written_to_is_not_kept() -> None:
    outbox, loan = Outbox(), Lent()
    outbox.add(b"1", memoryview(b"lent"), loan)
    loan.over = True

    assert not outbox.keep_loans(in_new_memory)
    assert not records(outbox)[0].holds


def test_a_payload_is_copied_at_once_if_nobody_waits_for_the_replica() -> None:
    """The replica catches up: its primary acknowledges before it is sent anything."""
    alone = Tenure(1, Role.PRIMARY, replica="there:1")
    side = Replicated("store", alone)
    side.connected(1, held=None)
    side.begin(None)
    lent = bytearray(b"lent")

    side.add(b"1", memoryview(lent), Lent(), in_new_memory)
    lent[:] = b"next"

    sent = side.next_item(None, 0)
    assert isinstance(sent, Record)
    assert (bytes(sent.payload), sent.loan) == (b"lent", None)
