"""Where the registry's facts are kept, as the rules see it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from headrace.names import ArtifactName, ModelName, VersionName
from headrace_registry.core.resources import Artifact, Model, Version


@dataclass(frozen=True)
class Request:
    """A mutation as it came; `request_id` is empty when the caller will not repeat it."""

    method: str
    project: str
    request_id: str
    body: bytes


class Repository(Protocol):
    """The facts, inside one transaction: it happens as a whole or not at all."""

    def add_model(self, model: Model) -> bool:
        """Add a model; return False if its name is taken."""

    def find_model(self, name: ModelName) -> Model | None:
        """Return a model with its aliases."""

    def lock_model(self, name: ModelName) -> Model | None:
        """Return a model that nobody else changes, nor its versions, until this transaction ends."""

    def models(self, project: str, after: str | None, limit: int) -> Sequence[Model]:
        """Return up to `limit` models of the project in the order of their ids, those after the id `after`."""

    def replace_model(self, model: Model) -> None:
        """Write a model and its aliases over what there is."""

    def remove_model(self, name: ModelName) -> None:
        """Remove a model that has no versions."""

    def take_number(self, model: ModelName) -> int:
        """Return the next version number of a locked model, from 1; none comes twice, whatever is deleted."""

    def add_version(self, version: Version) -> None:
        """Add a version under its number."""

    def find_version(self, name: VersionName) -> Version | None:
        """Return a version."""

    def versions(self, model: ModelName, before: int | None, limit: int) -> Sequence[Version]:
        """Return up to `limit` versions from the highest number down, those below the number `before`."""

    def remove_version(self, name: VersionName) -> None:
        """Remove a version."""

    def add_artifact(self, artifact: Artifact) -> None:
        """Let a project see stored bytes; one that does already keeps its first time."""

    def find_artifact(self, name: ArtifactName) -> Artifact | None:
        """Return an artifact if its project sees it."""

    def artifact_sizes(self, project: str, digests: Collection[str]) -> Mapping[str, int]:
        """Return the sizes in bytes of those `digests` that the project sees."""

    def answer_once(self, request: Request, now: datetime, produce: Callable[[], bytes]) -> bytes:
        """Return the answer that `request` got before, or what `produce` returns, which is then remembered.

        Raises:
            RequestIdReused: The id came before with another body.
        """


class Database(Protocol):
    """Where transactions come from."""

    def reading(self) -> AbstractContextManager[Repository]:
        """Begin a transaction that only looks."""

    def writing(self) -> AbstractContextManager[Repository]:
        """Begin a transaction that changes something, which is on the disk when the block has ended."""
