"""Whatever way bytes are cut, and however often the upload breaks off, the same artifact comes out."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from itertools import count, pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import UploadOffsetMismatch
from headrace.registry.client import RegistryClient
from headrace.registry.v1 import artifacts_pb2 as pb
from headrace.registry.v1.artifacts_pb2_grpc import ArtifactsStub
from headrace.testing.server import ServedChannel

PROJECTS = count()


class Uploader:
    """Sends one artifact in messages that end at `cuts`."""

    def __init__(self, artifacts: ArtifactsStub, name: str, data: bytes, cuts: Sequence[int]) -> None:
        self._artifacts, self._name, self._data, self._cuts = artifacts, name, data, cuts

    def offset(self) -> int:
        return self._artifacts.GetUpload(pb.GetUploadRequest(name=self._name)).offset

    def messages(self) -> Iterator[pb.UploadRequest]:
        offset = self.offset()
        yield pb.UploadRequest(name=self._name, size_bytes=len(self._data), offset=offset)
        ends = [cut for cut in self._cuts if offset < cut < len(self._data)]
        for begin, end in pairwise([offset, *ends, len(self._data)]):
            yield pb.UploadRequest(data=self._data[begin:end])

    def cancelled_after(self, messages: int) -> None:
        """Send some messages and vanish; how many of them arrive is up to the network."""
        sent, gone = threading.Event(), threading.Event()
        some = list(self.messages())[:messages]

        def stalls() -> Iterator[pb.UploadRequest]:
            yield from some
            sent.set()
            gone.wait()

        call = self._artifacts.Upload.future(stalls())
        # A call that is answered early, because the bytes are there by now, takes no more messages.
        call.add_done_callback(lambda _: sent.set())
        sent.wait()
        call.cancel()
        gone.set()

    def ended_after(self, messages: int) -> None:
        """Send some messages, but not all, and say that these were all."""
        some = list(self.messages())[:-1][:messages]
        # A call that was cancelled before may still bring the rest; then this one ends well.
        with contextlib.suppress(UploadOffsetMismatch):
            self._artifacts.Upload(iter(some))


@given(
    data=st.binary(min_size=1, max_size=3000),
    cuts=st.lists(st.integers(1, 3000), max_size=12, unique=True).map(sorted),
    breaks=st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_upload_survives_any_cuts_and_breaks(
    channel: ServedChannel, data: bytes, cuts: list[int], breaks: list[tuple[bool, int]]
) -> None:
    project = f"p{next(PROJECTS)}"  # so that no example finds the bytes of another
    name = f"projects/{project}/artifacts/{hashlib.sha256(data).hexdigest()}"
    artifacts = ArtifactsStub(channel)
    uploader = Uploader(artifacts, name, data, cuts)
    for cancels, messages in breaks:
        before = uploader.offset()
        (uploader.cancelled_after if cancels else uploader.ended_after)(messages)
        assert before <= uploader.offset() <= len(data)

    artifacts.Upload(uploader.messages())

    assert RegistryClient(channel).download_bytes(name) == data
