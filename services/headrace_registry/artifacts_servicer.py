"""`headrace.registry.v1.Artifacts` on the wire: streams that hold one chunk at a time."""

from collections.abc import Iterator

import grpc

from headrace.errors import InvalidArgument
from headrace.names import ArtifactName
from headrace.registry.v1 import artifacts_pb2 as pb
from headrace.registry.v1 import artifacts_pb2_grpc
from headrace_registry import wire
from headrace_registry.core.artifacts import Artifacts, Upload
from headrace_registry.core.resources import Artifact

Context = grpc.ServicerContext


class ArtifactsServicer(artifacts_pb2_grpc.ArtifactsServicer):
    """Immutable bytes, named by their SHA-256."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def Upload(self, request_iterator: Iterator[pb.UploadRequest], context: Context) -> pb.Artifact:
        """Receive bytes and commit them; what came before a caller went away is kept for the next call."""
        first = next(request_iterator, None)
        if first is None:
            raise InvalidArgument("the stream has no message; the first one names the artifact", field="name")
        name = ArtifactName.parse(first.name)
        begun = self._artifacts.begin_upload(name, first.size_bytes, first.offset)
        return wire.artifact_message(
            _receive(begun, first, request_iterator) if isinstance(begun, Upload) else begun
        )

    def GetUpload(self, request: pb.GetUploadRequest, context: Context) -> pb.UploadStatus:
        """Tell how much of an upload has been received."""
        status = self._artifacts.upload_status(ArtifactName.parse(request.name))
        return pb.UploadStatus(name=request.name, offset=status.offset, committed=status.committed)

    def Download(self, request: pb.DownloadRequest, context: Context) -> Iterator[pb.DownloadResponse]:
        """Send the bytes, or a range of them."""
        for data in self._artifacts.read(ArtifactName.parse(request.name), request.offset, request.length):
            yield pb.DownloadResponse(data=data)

    def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.Artifact:
        """Return size and times without the bytes."""
        return wire.artifact_message(self._artifacts.get(ArtifactName.parse(request.name)))


def _receive(upload: Upload, first: pb.UploadRequest, rest: Iterator[pb.UploadRequest]) -> Artifact:
    upload.append(first.data)
    for request in rest:
        upload.append(request.data)
    return upload.commit()
