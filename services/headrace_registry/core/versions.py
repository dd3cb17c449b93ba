"""Versions: numbered once, never changed, made of artifacts that are there."""

from dataclasses import replace
from datetime import datetime

from headrace.errors import FailedPrecondition, NotFound
from headrace.names import AliasName, ArtifactName, ModelName, VersionName
from headrace.paging import Page, PageRequest
from headrace_registry.core.models import get_model
from headrace_registry.core.repository import Repository
from headrace_registry.core.resources import Draft, File, Model, Version
from headrace_registry.core.rules import LATEST, check_draft


def create_version(
    repository: Repository, model: ModelName, draft: Draft, now: datetime, *, create_model: bool = False
) -> Version:
    """Make the next version of a model, and the model itself first if that is wanted.

    Raises:
        NotFound: The model, an artifact or the source version does not exist.
        InvalidArgument: The draft is not one of a version; see `rules.check_draft`.
    """
    check_draft(draft, model.project)
    if create_model:
        repository.add_model(Model(model, "", create_time=now, update_time=now))
    if not repository.lock_model(model):
        raise NotFound(f"{model} does not exist; create it, or set create_model")
    if draft.source_version and not repository.find_version(draft.source_version):
        raise NotFound(f"{draft.source_version} does not exist", field="version.source_version")
    draft = _with_sizes(repository, draft, model.project)
    version = Version(model.version(repository.take_number(model)), draft, create_time=now)
    repository.add_version(version)
    return version


def _with_sizes(repository: Repository, draft: Draft, project: str) -> Draft:
    """Fill in the sizes of the files, whose artifacts must exist, as must the program's archive."""
    needed = {f"version.files[{index}].artifact": file.artifact for index, file in enumerate(draft.files)}
    if draft.program and draft.program.archive:
        needed["version.program.archive.artifact"] = draft.program.archive
    sizes = repository.artifact_sizes(project, {artifact.digest for artifact in needed.values()})
    for field, artifact in needed.items():
        if artifact.digest not in sizes:
            raise _no_artifact(artifact, field)
    return replace(draft, files=[_with_size(file, sizes[file.artifact.digest]) for file in draft.files])


def _with_size(file: File, size_bytes: int) -> File:
    return replace(file, size_bytes=size_bytes)


def _no_artifact(artifact: ArtifactName, field: str) -> NotFound:
    return NotFound(f"{artifact} does not exist; upload it first", field=field)


def get_version(repository: Repository, name: VersionName | AliasName) -> Version:
    """Return a version by its number or by an alias; "latest" is the highest number.

    Raises:
        NotFound: There is no such version.
    """
    if isinstance(name, VersionName):
        return _found(repository.find_version(name), name)
    if name.alias == LATEST:
        return _newest(repository, name)
    number = get_model(repository, name.parent).aliases.get(name.alias)
    if number is None:
        raise NotFound(f"{name} does not exist; {name.parent} lists its aliases, or use @{LATEST}")
    version = name.parent.version(number)
    return _found(repository.find_version(version), version)


def _newest(repository: Repository, name: AliasName) -> Version:
    versions = repository.versions(name.parent, before=None, limit=1)
    if not versions:
        get_model(repository, name.parent)
        raise NotFound(f"{name.parent} has no versions yet")
    return versions[0]


def list_versions(repository: Repository, model: ModelName, request: PageRequest) -> Page[Version]:
    """Return a page of a model's versions, newest first.

    Raises:
        NotFound: There is no such model.
    """
    get_model(repository, model)
    rows = repository.versions(model, request.after_number(), request.limit)
    return request.page(rows, key=lambda version: (version.name.number,))


def delete_version(repository: Repository, name: VersionName) -> None:
    """Delete a version that no alias points to.

    Raises:
        FailedPrecondition: One does.
        NotFound: There is no such version.
    """
    model = repository.lock_model(name.parent)
    _found(repository.find_version(name), name)
    assert model, f"{name} without its model"
    pointing = sorted(alias for alias, number in model.aliases.items() if number == name.number)
    if pointing:
        raise FailedPrecondition(f"alias {', '.join(pointing)} points to {name}; point it elsewhere first")
    repository.remove_version(name)


def _found(version: Version | None, name: VersionName) -> Version:
    if version is None:
        raise NotFound(f"{name} does not exist; list the versions of {name.parent}")
    return version
