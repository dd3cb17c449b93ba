"""Every rpc of Artifacts through a real server: what arrives whole exists, and nothing else does."""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from headrace.errors import (
    DataLoss,
    DigestMismatch,
    InvalidArgument,
    NotFound,
    OutOfRange,
    StorageFull,
    UploadOffsetMismatch,
)
from headrace.registry.client import RegistryClient
from headrace.registry.v1 import artifacts_pb2 as pb
from headrace.registry.v1.artifacts_pb2_grpc import ArtifactsStub
from headrace.testing import until
from headrace.testing.server import ServedChannel
from tests.services.registry.registry_server import MAX_ARTIFACT_BYTES

DATA = bytes(range(256)) * 20_000  # 5 MB: a few chunks
CHUNK = 1 << 20


@pytest.fixture
def artifacts(channel: ServedChannel) -> ArtifactsStub:
    return ArtifactsStub(channel)


def name_of(data: bytes, project: str = "default") -> str:
    return f"projects/{project}/artifacts/{hashlib.sha256(data).hexdigest()}"


def requests(
    data: bytes, offset: int = 0, *, name: str = "", size: int | None = None
) -> list[pb.UploadRequest]:
    """Split the bytes from `offset` into messages."""
    size = len(data) if size is None else size
    first, *rest = [data[begin : begin + CHUNK] for begin in range(offset, len(data), CHUNK)] or [b""]
    head = pb.UploadRequest(name=name or name_of(data), size_bytes=size, offset=offset, data=first)
    return [head, *(pb.UploadRequest(data=chunk) for chunk in rest)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "artifacts").rglob("*") if not path.is_dir())


def stored(folder: Path, name: str) -> Path:
    digest = name.rpartition("/")[2]
    return folder / "artifacts" / "sha256" / digest[:2] / digest


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, len(DATA)])
def test_bytes_come_back_as_they_went(client: RegistryClient, size: int) -> None:
    name = client.upload_bytes("default", DATA[:size])

    assert name == name_of(DATA[:size])
    assert client.download_bytes(name) == DATA[:size]


def test_a_file_comes_back_as_it_went(client: RegistryClient, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(DATA)
    progress: list[tuple[int, int]] = []

    name = client.upload_file(
        "default", tmp_path / "there", lambda done, total: progress.append((done, total))
    )
    client.download_file(name, tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == DATA
    assert progress == sorted(progress)
    assert progress[-1] == (len(DATA), len(DATA))


def test_an_artifact_tells_its_size_and_when_it_came(
    client: RegistryClient, artifacts: ArtifactsStub
) -> None:
    name = client.upload_bytes("default", DATA)
    first = artifacts.GetArtifact(pb.GetArtifactRequest(name=name))
    client.upload_bytes("default", DATA)

    assert (first.name, first.size_bytes) == (name, len(DATA))
    assert first.create_time.seconds > 0
    assert artifacts.GetArtifact(pb.GetArtifactRequest(name=name)) == first


def test_what_is_there_needs_no_second_upload(client: RegistryClient, artifacts: ArtifactsStub) -> None:
    name = client.upload_bytes("default", DATA)

    again = artifacts.Upload(iter([pb.UploadRequest(name=name, size_bytes=len(DATA))]))

    assert again == artifacts.GetArtifact(pb.GetArtifactRequest(name=name))


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 0, DATA), (5, 0, DATA[5:]), (5, 7, DATA[5:12]), (len(DATA), 0, b""), (9, 1 << 63, DATA[9:])],
)
def test_a_range_is_a_slice(
    client: RegistryClient, artifacts: ArtifactsStub, offset: int, length: int, expected: bytes
) -> None:
    name = client.upload_bytes("default", DATA)
    chunks = [
        response.data
        for response in artifacts.Download(pb.DownloadRequest(name=name, offset=offset, length=length))
    ]

    assert b"".join(chunks) == expected
    assert all(len(chunk) <= CHUNK for chunk in chunks)


def test_a_range_past_the_end_is_refused(client: RegistryClient, artifacts: ArtifactsStub) -> None:
    name = client.upload_bytes("default", DATA)
    with pytest.raises(OutOfRange):
        list(artifacts.Download(pb.DownloadRequest(name=name, offset=len(DATA) + 1)))


def test_another_project_does_not_see_the_bytes(client: RegistryClient, artifacts: ArtifactsStub) -> None:
    client.upload_bytes("default", DATA)
    other = name_of(DATA, "other")

    with pytest.raises(NotFound):
        client.download_bytes(other)
    with pytest.raises(NotFound):
        artifacts.GetArtifact(pb.GetArtifactRequest(name=other))
    assert not artifacts.GetUpload(pb.GetUploadRequest(name=other)).committed


def test_who_knows_the_digest_must_still_bring_the_bytes(
    client: RegistryClient, artifacts: ArtifactsStub, tmp_path: Path
) -> None:
    client.upload_bytes("default", DATA)
    other = name_of(DATA, "other")

    with pytest.raises(UploadOffsetMismatch):
        artifacts.Upload(iter([pb.UploadRequest(name=other, size_bytes=len(DATA))]))

    client.upload_bytes("other", DATA)
    assert client.download_bytes(other) == DATA
    assert files(tmp_path) == [other.rpartition("/")[2]]  # kept once


def test_bytes_with_another_digest_are_discarded(artifacts: ArtifactsStub, tmp_path: Path) -> None:
    name = name_of(b"something else")
    with pytest.raises(DigestMismatch):
        artifacts.Upload(iter(requests(DATA, name=name)))

    assert artifacts.GetUpload(pb.GetUploadRequest(name=name)) == pb.UploadStatus(name=name)
    assert files(tmp_path) == []


def test_an_upload_is_resumed_where_it_ended(artifacts: ArtifactsStub, client: RegistryClient) -> None:
    half = requests(DATA)[:2]
    with pytest.raises(UploadOffsetMismatch) as refusal:
        artifacts.Upload(iter(half))
    status = artifacts.GetUpload(pb.GetUploadRequest(name=name_of(DATA)))
    assert (status.offset, status.committed) == (2 * CHUNK, False)
    assert refusal.value.metadata["offset"] == str(2 * CHUNK)

    artifacts.Upload(iter(requests(DATA, offset=status.offset)))

    assert client.download_bytes(name_of(DATA)) == DATA
    status = artifacts.GetUpload(pb.GetUploadRequest(name=name_of(DATA)))
    assert (status.offset, status.committed) == (len(DATA), True)


def test_an_upload_that_begins_too_far_is_told_where_to_go_on(artifacts: ArtifactsStub) -> None:
    with pytest.raises(UploadOffsetMismatch) as refusal:
        artifacts.Upload(iter(requests(DATA, offset=CHUNK)))
    assert refusal.value.metadata["offset"] == "0"


def test_a_caller_that_goes_away_leaves_a_part_to_resume_and_no_artifact(
    channel: ServedChannel, artifacts: ArtifactsStub, client: RegistryClient, tmp_path: Path
) -> None:
    gone = threading.Event()

    def stalls() -> Iterator[pb.UploadRequest]:
        yield from requests(DATA)[:3]
        gone.wait()

    call = artifacts.Upload.future(stalls())
    part = tmp_path / "artifacts" / "uploads" / f"default-{hashlib.sha256(DATA).hexdigest()}.part"
    until(lambda: part.exists() and part.stat().st_size == 3 * CHUNK)
    call.cancel()
    gone.set()

    with pytest.raises(NotFound):
        artifacts.GetArtifact(pb.GetArtifactRequest(name=name_of(DATA)))
    assert artifacts.GetUpload(pb.GetUploadRequest(name=name_of(DATA))).offset == 3 * CHUNK
    sent: list[int] = []
    client.upload_file("default", as_file(tmp_path), lambda done, total: sent.append(done))
    assert sent[0] == 4 * CHUNK  # the first message, which continues at 3, is on its way
    assert files(tmp_path) == [hashlib.sha256(DATA).hexdigest()]


def as_file(folder: Path) -> Path:
    path = folder / "data"
    path.write_bytes(DATA)
    return path


def test_wrong_bytes_kept_by_somebody_cost_an_honest_upload_only_time(
    artifacts: ArtifactsStub, client: RegistryClient
) -> None:
    wrong = bytes(CHUNK)
    with pytest.raises(UploadOffsetMismatch):
        artifacts.Upload(iter(requests(wrong, name=name_of(DATA), size=len(DATA))))

    assert client.download_bytes(client.upload_bytes("default", DATA)) == DATA


def test_the_same_bytes_uploaded_by_many_at_once_are_stored_once(
    client: RegistryClient, tmp_path: Path
) -> None:
    data = os.urandom(3 * CHUNK)
    threads = [threading.Thread(target=client.upload_bytes, args=("default", data)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert client.download_bytes(name_of(data)) == data
    assert files(tmp_path) == [hashlib.sha256(data).hexdigest()]


def test_a_flipped_byte_is_found_and_healed_by_a_new_upload(client: RegistryClient, tmp_path: Path) -> None:
    name = client.upload_bytes("default", DATA)
    path = stored(tmp_path, name)
    path.chmod(0o644)
    path.write_bytes(b"\xff" + DATA[1:])
    (tmp_path / "mine").write_text("as before")

    with pytest.raises(DataLoss):
        client.download_file(name, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "as before"
    assert not list(tmp_path.glob(".mine.*"))

    client.upload_bytes("default", DATA)
    assert client.download_bytes(name) == DATA


@pytest.mark.parametrize("offset", [0, 5])
def test_bytes_cut_short_are_found_before_any_are_sent(
    client: RegistryClient, artifacts: ArtifactsStub, tmp_path: Path, offset: int
) -> None:
    name = client.upload_bytes("default", DATA)
    path = stored(tmp_path, name)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1])

    with pytest.raises(DataLoss):
        next(artifacts.Download(pb.DownloadRequest(name=name, offset=offset)))


def test_a_full_disk_ends_the_upload_and_leaves_nothing(
    client: RegistryClient, artifacts: ArtifactsStub, tmp_path: Path
) -> None:
    """`/dev/full` refuses every write as a full disk does."""
    digest = hashlib.sha256(DATA).hexdigest()
    (tmp_path / "artifacts" / "uploads" / f"default-{digest}.part").symlink_to("/dev/full")

    with pytest.raises(StorageFull):
        client.upload_bytes("default", DATA)

    assert files(tmp_path) == []
    client.upload_bytes("default", DATA)


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("name", []),
        ("name", [pb.UploadRequest(name="projects/default/artifacts/../../etc/passwd")]),
        ("name", [pb.UploadRequest(name="projects/default/artifacts/" + "A" * 64)]),
        ("size_bytes", [pb.UploadRequest(name=name_of(b""), size_bytes=MAX_ARTIFACT_BYTES + 1)]),
        ("size_bytes", [pb.UploadRequest(name=name_of(b""), size_bytes=1 << 63)]),
        ("size_bytes", [pb.UploadRequest(name=name_of(b"ab"), size_bytes=1, data=b"ab")]),
        ("data", [pb.UploadRequest(name=name_of(DATA), size_bytes=len(DATA), data=DATA)]),
    ],
)
def test_a_bad_upload_gets_its_error(
    artifacts: ArtifactsStub, tmp_path: Path, field: str, messages: Iterable[pb.UploadRequest]
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        artifacts.Upload(iter(messages))
    assert refusal.value.field == field
    assert not list((tmp_path / "artifacts" / "sha256").iterdir())
