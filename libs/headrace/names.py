"""Resource names: parse them once at the edge, pass them typed, print them with `str()`.

    projects/{project}                                     ProjectName
    projects/{project}/models/{model}                      ModelName
    projects/{project}/models/{model}/versions/{number}    VersionName
    projects/{project}/models/{model}@{alias}              AliasName
    projects/{project}/artifacts/{sha256 hex}              ArtifactName
    projects/{project}/stores/{store}                      StoreName
    projects/{project}/jobs/{job}                          JobName
    projects/{project}/tasks/{task}                        TaskName
    projects/{project}/deployments/{deployment}            DeploymentName
    pools/{pool}                                           PoolName
    nodes/{node}                                           NodeName

An id is 1 to 63 characters of `a-z 0-9 . _ -` and begins and ends with a letter or digit.
"""

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from headrace.errors import InvalidArgument

_ID = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_PARTS = {"number": r"[1-9][0-9]{0,17}", "digest": r"[0-9a-f]{64}"}  # 18 digits always fit in an int64
_ID_RULE = "an id is 1 to 63 of a-z 0-9 . _ - and begins and ends with a letter or digit"


def check_id(text: str, field: str) -> str:
    """Return `text` if it may stand in a resource name.

    Raises:
        InvalidArgument: It may not; `field` names the request field.
    """
    if not re.fullmatch(_ID, text):
        raise InvalidArgument(f"{field} {text!r} is not an id; {_ID_RULE}", field=field)
    return text


@dataclass(frozen=True, order=True)
class Name:
    """One kind of resource name; its fields are the variable parts, in the order of `pattern`."""

    pattern: ClassVar[str]
    example: ClassVar[str]
    _compiled: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        """Compile `pattern` once."""
        part = re.compile(r"\{(\w+)\}")
        regex = part.sub(lambda found: f"(?P<{found[1]}>{_PARTS.get(found[1], _ID)})", cls.pattern)
        cls._compiled = re.compile(regex)

    def __post_init__(self) -> None:
        """Refuse parts that would not read back: a name that exists is a valid one."""
        if not self._compiled.fullmatch(str(self)):
            raise _misnamed(str(self), "name", type(self))

    @classmethod
    def parse(cls, text: str, *, field: str = "name") -> Self:
        """Read a name.

        Args:
            text: As it came from outside.
            field: The request field it came from, for the error.
        Raises:
            InvalidArgument: It is not a name of this kind; the message shows one that is.
        """
        found = cls._compiled.fullmatch(text)
        if not found:
            raise _misnamed(text, field, cls)
        types = {part.name: part.type for part in fields(cls)}
        return cls(
            **{key: int(value) if types[key] is int else value for key, value in found.groupdict().items()}
        )

    def __str__(self) -> str:
        return self.pattern.format_map({part.name: getattr(self, part.name) for part in fields(self)})


def _misnamed(text: str, field: str, kind: type[Name]) -> InvalidArgument:
    shown = text if len(text) <= 200 else f"{text[:200]}..."  # a megabyte of garbage is not sent back
    return InvalidArgument(
        f"{field} {shown!r} is not of the form {kind.pattern}, such as {kind.example}; {_ID_RULE}",
        field=field,
    )


@dataclass(frozen=True, order=True)
class ProjectName(Name):
    """A project: the owner of everything below it."""

    pattern = "projects/{project}"
    example = "projects/default"
    project: str


@dataclass(frozen=True, order=True)
class ModelName(Name):
    """A model: a line of versions."""

    pattern = "projects/{project}/models/{model}"
    example = "projects/default/models/digits"
    project: str
    model: str

    def version(self, number: int) -> "VersionName":
        """Name its version `number`, 1 or more."""
        return VersionName(self.project, self.model, number)

    def alias(self, alias: str) -> "AliasName":
        """Name its `alias`."""
        return AliasName(self.project, self.model, alias)


@dataclass(frozen=True, order=True)
class VersionName(Name):
    """One immutable version of a model."""

    pattern = "projects/{project}/models/{model}/versions/{number}"
    example = "projects/default/models/digits/versions/7"
    project: str
    model: str
    number: int

    @property
    def parent(self) -> ModelName:
        """The model it is a version of."""
        return ModelName(self.project, self.model)


@dataclass(frozen=True, order=True)
class AliasName(Name):
    """A word that points to a version of a model."""

    pattern = "projects/{project}/models/{model}@{alias}"
    example = "projects/default/models/digits@stable"
    project: str
    model: str
    alias: str

    @property
    def parent(self) -> ModelName:
        """The model whose version it points to."""
        return ModelName(self.project, self.model)


@dataclass(frozen=True, order=True)
class ArtifactName(Name):
    """Bytes, named by their sha256 in lower-case hex."""

    pattern = "projects/{project}/artifacts/{digest}"
    example = f"projects/default/artifacts/{'0123456789abcdef' * 4}"
    project: str
    digest: str


@dataclass(frozen=True, order=True)
class StoreName(Name):
    """A set of live parameters."""

    pattern = "projects/{project}/stores/{store}"
    example = "projects/default/stores/digits-run-1"
    project: str
    store: str


@dataclass(frozen=True, order=True)
class JobName(Name):
    """A piece of work for the scheduler."""

    pattern = "projects/{project}/jobs/{job}"
    example = "projects/default/jobs/train-digits"
    project: str
    job: str


@dataclass(frozen=True, order=True)
class TaskName(Name):
    """A part of a job, on one node."""

    pattern = "projects/{project}/tasks/{task}"
    example = "projects/default/tasks/train-digits-0"
    project: str
    task: str

    @classmethod
    def of_job(cls, job: JobName, attempt: int, kind: str, rank: int) -> "TaskName":
        """Name the task of a job's attempt, >= 1, that runs a rank; `kind` is train or optimize."""
        return cls(job.project, f"{job.job}-{attempt}-{kind}-{rank}")


@dataclass(frozen=True, order=True)
class DeploymentName(Name):
    """A model that is to be served."""

    pattern = "projects/{project}/deployments/{deployment}"
    example = "projects/default/deployments/digits"
    project: str
    deployment: str


@dataclass(frozen=True, order=True)
class PoolName(Name):
    """A group of nodes."""

    pattern = "pools/{pool}"
    example = "pools/default"
    pool: str


@dataclass(frozen=True, order=True)
class NodeName(Name):
    """A process that does work."""

    pattern = "nodes/{node}"
    example = "nodes/training-0"
    node: str


def parse_model_reference(text: str, *, field: str = "name") -> ModelName | VersionName | AliasName:
    """Read a model, one of its versions or one of its aliases.

    Raises:
        InvalidArgument: It is none of the three.
    """
    if "@" in text:
        return AliasName.parse(text, field=field)
    if "/versions/" in text:
        return VersionName.parse(text, field=field)
    return ModelName.parse(text, field=field)


def project_of(name: str, *, field: str = "name") -> str:
    """Read the project's id off any name that begins with `projects/{project}`.

    Raises:
        InvalidArgument: It does not.
    """
    found = re.match(rf"projects/({_ID})(?:/|\Z)", name)
    if not found:
        raise _misnamed(name, field, ProjectName)
    return found[1]
