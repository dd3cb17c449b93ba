"""What the registry keeps, as plain values."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from headrace.names import ArtifactName, JobName, ModelName, VersionName


@dataclass(frozen=True)
class Model:
    """A named line of versions; `aliases` maps a word to a version's number. Times are in UTC."""

    name: ModelName
    description: str
    create_time: datetime
    update_time: datetime
    aliases: Mapping[str, int] = field(default_factory=dict)
    revision: int = 1

    @property
    def etag(self) -> str:
        """What changes with every change; a model made anew under the same name has others."""
        return hashlib.sha256(f"{self.create_time.isoformat()} {self.revision}".encode()).hexdigest()[:16]


class FileRole(Enum):
    """What a file of a version is; the numbers are those of `headrace.registry.v1.FileRole`."""

    WEIGHTS = 1
    ONNX = 2
    REPORT = 3
    PLOT = 4
    TORCH_PROGRAM = 5
    MODEL_CONFIG = 6
    LABELS = 7

    @property
    def can_be_served(self) -> bool:
        """Whether an inference server may take such a file."""
        return self in (FileRole.ONNX, FileRole.TORCH_PROGRAM, FileRole.MODEL_CONFIG)


@dataclass(frozen=True)
class File:
    """One file of a version."""

    path: str
    artifact: ArtifactName
    role: FileRole
    size_bytes: int = 0


@dataclass(frozen=True)
class Program:
    """The user's code that a version's weights belong to.

    `document` is the whole of it as JSON; `archive` is the artifact it names, if its source is one.
    """

    document: str
    archive: ArtifactName | None = None


@dataclass(frozen=True)
class Draft:
    """What a caller says of a version before it has a number."""

    files: Sequence[File]
    serving_file: str = ""
    program: Program | None = None
    source_version: VersionName | None = None
    job: JobName | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Version:
    """One immutable result of training or optimization."""

    name: VersionName
    draft: Draft
    create_time: datetime


@dataclass(frozen=True)
class Artifact:
    """Stored bytes, as one project sees them; `create_time` is when it first had them."""

    name: ArtifactName
    size_bytes: int
    create_time: datetime
