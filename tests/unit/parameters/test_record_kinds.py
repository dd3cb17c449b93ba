"""What every kind of record has in common: it is read as it was written, by any later release, and no damage passes for another kind."""

from pathlib import Path

import numpy as np
import pytest

from headrace.errors import DataLoss
from headrace_parameters.core.config import Norms
from headrace_parameters.core.exchange import Push
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.kinds import KINDS, Change
from headrace_parameters.core.members import MembersChange
from headrace_parameters.core.record import HEADER_BYTES, BadRecord, Sealed, checksum, decode, sequences_after
from headrace_parameters.core.rows.push import RowPush, TablePush
from headrace_parameters.journal.recovery import recover
from tests.unit.parameters.journal_files import JournaledShard, config

GRADIENT = np.array([0.5, -2, 3], np.float32)
CHANGES: dict[bytes, Change] = {
    b"HRP1": Push(3, 9, 2.5, GRADIENT),
    b"HRP2": Push(3, 9, 2.5, GRADIENT, covers=(range(1, 3), range(7, 8))),
    b"HRN1": StepNorms(9, Norms.TENSORS, (0.5, 3.0)),
    b"HRM1": MembersChange(6, (0, 2, 7)),
    b"HRT1": TablePush("users", RowPush(3, 9, 2.5, np.array([7, 1 << 63, 5], np.uint64), GRADIENT[:, None])),
}
# As the releases wrote them that first had them, with sequence number 17 and epoch 4.
WRITTEN = {
    b"HRP1": "485250315465b172fb59f02c0300000011000000000000000400000000000000"
    "09000000000000000c0000000000000000000000000004400000003f000000c000004040",
    b"HRP2": "48525032cbc548cf6ae5e5fc0300000011000000000000000400000000000000"
    "0900000000000000300000000000000000000000000004400200000001000000"
    "000000000300000000000000070000000000000008000000000000000000003f"
    "000000c000004040",
    b"HRN1": "48524e31d9e72faed3ebb5b70000000011000000000000000400000000000000"
    "0900000000000000140000000000000000000000000000000200000000000000"
    "0000e03f0000000000000840",
    b"HRM1": "48524d31598ec562342535840000000011000000000000000400000000000000"
    "0000000000000000140000000000000000000000000000000600000000000000"
    "000000000200000007000000",
    b"HRT1": "48525431e186182b91f1c3110300000011000000000000000400000000000000"
    "0900000000000000340000000000000000000000000004400500000001000000"
    "7573657273000000070000000000000000000000000000800500000000000000"
    "0000003f000000c000004040",
}


@pytest.mark.parametrize("magic", CHANGES)
def test_records_are_written_as_they_always_were(magic: bytes) -> None:
    assert b"".join(Sealed.of(CHANGES[magic]).encode(17, 4)).hex() == WRITTEN[magic]


@pytest.mark.parametrize("magic", CHANGES)
def test_records_of_earlier_releases_are_read(magic: bytes) -> None:
    data = bytearray.fromhex(WRITTEN[magic])

    entry = decode(memoryview(data), generation=5)

    assert (entry.sequence, entry.epoch, entry.size_bytes) == (17, 4, len(data))
    assert b"".join(Sealed.of(entry.change).encode(17, 4)) == data
    assert type(entry.change) is type(CHANGES[magic])


@pytest.mark.parametrize("magic", CHANGES)
def test_no_flipped_bit_and_no_other_magic_goes_unnoticed(magic: bytes) -> None:
    data = bytearray(b"".join(Sealed.of(CHANGES[magic]).encode(17, 4)))
    assert list(sequences_after(memoryview(b"1234" + data), 0)) == [17]
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord):
            decode(memoryview(bytes(data)))
        data[bit // 8] ^= 1 << bit % 8
    for other in KINDS.keys() - {magic}:
        with pytest.raises(BadRecord, match="a header is damaged"):
            decode(memoryview(other + data[4:]))


def test_every_kind_is_here() -> None:
    assert CHANGES.keys() == WRITTEN.keys() == KINDS.keys()


def test_a_log_with_records_of_a_later_release_is_refused(tmp_path: Path) -> None:
    """And not cut off before them: they were acknowledged."""
    store = JournaledShard(tmp_path, config())
    store.initialize()
    store.push(0)
    store.journal.close()
    segment = store.segments()[-1]
    data = segment.read_bytes()
    header = data[8:HEADER_BYTES]
    later = b"HRP?" + checksum(b"HRP?" + header).to_bytes(4, "little") + data[8:]
    segment.write_bytes(data + later)

    with pytest.raises(DataLoss, match="go on with the release that wrote them"):
        recover(tmp_path, config())

    assert segment.read_bytes() == data + later
