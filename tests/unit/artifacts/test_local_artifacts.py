"""The store of bytes in a folder: what becomes an artifact, and what never does."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.artifacts import LocalArtifacts
from headrace.errors import DataLoss, DigestMismatch, InvalidArgument, StorageFull, UploadOffsetMismatch

DAY_S = 24 * 3600


def nothing() -> None:
    """Be called when an artifact is there."""


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(store: LocalArtifacts, data: bytes, project: str = "default") -> str:
    digest = digest_of(data)
    store.begin(project, digest, len(data))
    store.append(project, digest, 0, data)
    store.commit(project, digest, len(data), then=nothing)
    return digest


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_committed_bytes_read_back(store: LocalArtifacts) -> None:
    digest = upload(store, b"weights")

    assert b"".join(store.read(digest)) == b"weights"
    assert store.size(digest) == 7


def test_bytes_that_come_late_do_not_begin_a_finished_upload_again(
    store: LocalArtifacts, tmp_path: Path
) -> None:
    """Two calls sent the same bytes; one has committed them."""
    digest = upload(store, b"weights")

    with pytest.raises(UploadOffsetMismatch):
        store.append("default", digest, 0, b"wei")

    assert files(tmp_path) == [digest]


@given(data=st.binary(max_size=200), offset=st.integers(0, 250), length=st.integers(0, 250) | st.none())
@settings(max_examples=50, deadline=None)
def test_a_range_reads_as_a_slice(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int | None
) -> None:
    store = LocalArtifacts(tmp_path_factory.mktemp("store"))
    digest = upload(store, data)

    end = None if length is None else offset + length
    assert b"".join(store.read(digest, offset, length)) == data[offset:end]


def test_an_artifact_lies_under_its_digest_and_leaves_no_part(store: LocalArtifacts, tmp_path: Path) -> None:
    digest = upload(store, b"weights")

    assert (tmp_path / "sha256" / digest[:2] / digest).read_bytes() == b"weights"
    assert files(tmp_path) == [digest]


def test_nothing_is_stored_before_the_commit(store: LocalArtifacts) -> None:
    digest = digest_of(b"weights")
    store.append("default", digest, 0, b"weights")

    assert store.size(digest) is None
    assert store.received("default", digest) == 7


def test_bytes_with_another_digest_are_discarded(store: LocalArtifacts, tmp_path: Path) -> None:
    digest = digest_of(b"weights")
    store.append("default", digest, 0, b"WEIGHTS")

    with pytest.raises(DigestMismatch, match=digest_of(b"WEIGHTS")):
        store.commit("default", digest, 7, then=nothing)

    assert files(tmp_path) == []


def test_more_bytes_than_announced_are_discarded(store: LocalArtifacts, tmp_path: Path) -> None:
    digest = digest_of(b"weight")
    store.append("default", digest, 0, b"weights")

    with pytest.raises(DigestMismatch):
        store.commit("default", digest, 6, then=nothing)

    assert files(tmp_path) == []


def test_a_gap_is_refused_and_names_where_to_go_on(store: LocalArtifacts) -> None:
    digest = digest_of(b"weights")
    store.append("default", digest, 0, b"wei")

    with pytest.raises(UploadOffsetMismatch) as refusal:
        store.append("default", digest, 4, b"hts")

    assert refusal.value.metadata == {"offset": "3"}


def test_an_unfinished_upload_is_not_committed_and_stays(store: LocalArtifacts) -> None:
    digest = digest_of(b"weights")
    store.append("default", digest, 0, b"wei")

    with pytest.raises(UploadOffsetMismatch):
        store.commit("default", digest, 7, then=nothing)

    assert store.received("default", digest) == 3


def test_bytes_that_are_kept_already_are_skipped(store: LocalArtifacts) -> None:
    digest = digest_of(b"weights")
    store.append("default", digest, 0, b"weig")

    assert store.append("default", digest, 0, b"wei") == 3
    assert store.append("default", digest, 3, b"ghts") == 7
    store.commit("default", digest, 7, then=nothing)


def test_many_uploads_of_the_same_bytes_at_once_make_one_artifact(
    store: LocalArtifacts, tmp_path: Path
) -> None:
    data = os.urandom(64 << 10)
    digest = digest_of(data)
    start = threading.Barrier(8)

    def send() -> None:
        start.wait()
        while store.size(digest) is None:
            try:
                for offset in range(0, len(data), 1000):
                    store.append("default", digest, offset, data[offset : offset + 1000])
                store.commit("default", digest, len(data), then=nothing)
            except UploadOffsetMismatch:
                continue  # another one was faster

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert b"".join(store.read(digest)) == data


def test_projects_upload_apart(store: LocalArtifacts) -> None:
    digest = digest_of(b"weights")
    store.append("one", digest, 0, b"wei")

    assert store.received("two", digest) == 0


def test_a_second_project_uploading_the_same_bytes_keeps_them_once(
    store: LocalArtifacts, tmp_path: Path
) -> None:
    digest = upload(store, b"weights", "one")
    upload(store, b"weights", "two")

    assert files(tmp_path) == [digest]


@pytest.mark.parametrize("digest", ["", "../" * 8, "A" * 64, "a" * 63, "a" * 64 + "\n", "/etc/passwd"])
def test_what_is_no_digest_never_becomes_a_path(store: LocalArtifacts, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        store.append("default", digest, 0, b"")
    with pytest.raises(InvalidArgument):
        store.size(digest)


def test_what_is_no_project_never_becomes_a_path(store: LocalArtifacts) -> None:
    with pytest.raises(InvalidArgument):
        store.append("../../etc", "a" * 64, 0, b"")


def test_a_flipped_byte_is_found_and_can_be_healed(store: LocalArtifacts, tmp_path: Path) -> None:
    digest = upload(store, b"weights")
    artifact = tmp_path / "sha256" / digest[:2] / digest
    artifact.chmod(0o644)
    artifact.write_bytes(b"weighty")

    with pytest.raises(DataLoss):
        list(store.read(digest))
    assert store.size(digest) is None

    upload(store, b"weights")
    assert b"".join(store.read(digest)) == b"weights"


def test_bytes_that_are_gone_are_a_loss(store: LocalArtifacts, tmp_path: Path) -> None:
    digest = upload(store, b"weights")
    (tmp_path / "sha256" / digest[:2] / digest).unlink()

    with pytest.raises(DataLoss):
        list(store.read(digest))


def test_a_full_disk_discards_the_upload(store: LocalArtifacts, tmp_path: Path) -> None:
    """`/dev/full` refuses every write as a full disk does."""
    digest = digest_of(b"weights")
    part = tmp_path / "uploads" / f"default-{digest}.part"
    part.symlink_to("/dev/full")

    with pytest.raises(StorageFull, match=os.strerror(errno.ENOSPC)):
        store.append("default", digest, 0, b"weights")

    assert files(tmp_path) == []


def test_an_upload_larger_than_the_free_space_is_refused_at_once(
    store: LocalArtifacts, tmp_path: Path
) -> None:
    with pytest.raises(StorageFull, match="free"):
        store.begin("default", "a" * 64, 1 << 60)

    assert files(tmp_path) == []


WRITES_UNTIL_FULL = """
import resource, sys
from pathlib import Path
from headrace.artifacts import LocalArtifacts
from headrace.errors import StorageFull

store = LocalArtifacts(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
store.append("default", "a" * 64, 0, bytes(1000))
try:
    store.append("default", "a" * 64, 1000, bytes(1000))
except StorageFull as full:
    print(full.reason, store.received("default", "a" * 64))
"""


def test_a_write_that_ends_halfway_discards_the_upload(tmp_path: Path) -> None:
    """The kernel takes 500 of the 1000 bytes before it refuses: what a disk does when it fills up."""
    command = [sys.executable, "-c", WRITES_UNTIL_FULL, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert output.split() == ["STORAGE_FULL", "0"]
    assert files(tmp_path) == []


def test_abandoned_uploads_are_swept_after_a_day(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path)
    store.append("default", "a" * 64, 0, b"old")
    store.append("default", "b" * 64, 0, b"new")
    os.utime(tmp_path / "uploads" / f"default-{'a' * 64}.part", (0, time.time() - DAY_S - 60))

    store = LocalArtifacts(tmp_path)

    assert store.received("default", "a" * 64) == 0
    assert store.received("default", "b" * 64) == 3
