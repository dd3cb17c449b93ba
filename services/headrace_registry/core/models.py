"""Models and their aliases: what may be made, changed and deleted."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from headrace.errors import AlreadyExists, EtagMismatch, FailedPrecondition, InvalidArgument, NotFound
from headrace.names import ModelName, VersionName
from headrace.paging import Page, PageRequest
from headrace_registry.core.repository import Repository
from headrace_registry.core.resources import Model
from headrace_registry.core.rules import check_alias, check_description


def create_model(repository: Repository, name: ModelName, description: str, now: datetime) -> Model:
    """Make a model.

    Raises:
        AlreadyExists: The name is taken.
    """
    model = Model(name, check_description(description), create_time=now, update_time=now)
    if not repository.add_model(model):
        raise AlreadyExists(f"{name} exists already; choose another id, or add versions to it")
    return model


def get_model(repository: Repository, name: ModelName) -> Model:
    """Return a model.

    Raises:
        NotFound: There is none of this name.
    """
    return _found(repository.find_model(name), name)


def list_models(repository: Repository, project: str, request: PageRequest) -> Page[Model]:
    """Return a page of the project's models, by id."""
    rows = repository.models(project, request.after_text(), request.limit)
    return request.page(rows, key=lambda model: (model.name.model,))


def update_model(
    repository: Repository, name: ModelName, description: str, etag: str, now: datetime
) -> Model:
    """Change a model's description.

    Raises:
        EtagMismatch: `etag` is not empty, and the model changed since.
    """
    model = _locked(repository, name, etag)
    return _changed(repository, replace(model, description=check_description(description)), now)


def delete_model(repository: Repository, name: ModelName, etag: str) -> None:
    """Delete a model without versions.

    Raises:
        FailedPrecondition: It has some.
        EtagMismatch: `etag` is not empty, and the model changed since.
    """
    _locked(repository, name, etag)
    newest = repository.versions(name, before=None, limit=1)
    if newest:
        raise FailedPrecondition(f"{name} still has versions, {newest[0].name} for one; delete them first")
    repository.remove_model(name)


def set_alias(
    repository: Repository, name: ModelName, alias: str, version: VersionName | None, etag: str, now: datetime
) -> Model:
    """Point an alias at a version of the same model, or remove it; one that is as it should be is left alone.

    Raises:
        InvalidArgument: The version belongs to another model.
        NotFound: There is no such model or version.
        EtagMismatch: `etag` is not empty, and the model changed since.
    """
    check_alias(alias)
    if version and version.parent != name:
        raise InvalidArgument(
            f"{version} is not a version of {name}; an alias stays within its model", field="version"
        )
    model = _locked(repository, name, etag)
    if version and not repository.find_version(version):
        raise NotFound(f"{version} does not exist; list the versions of {name}", field="version")
    aliases = _with_alias(model.aliases, alias, version)
    return model if aliases == model.aliases else _changed(repository, replace(model, aliases=aliases), now)


def _with_alias(aliases: Mapping[str, int], alias: str, version: VersionName | None) -> dict[str, int]:
    others = {key: number for key, number in aliases.items() if key != alias}
    return {**others, alias: version.number} if version else others


def _changed(repository: Repository, model: Model, now: datetime) -> Model:
    model = replace(model, revision=model.revision + 1, update_time=now)
    repository.replace_model(model)
    return model


def _locked(repository: Repository, name: ModelName, etag: str) -> Model:
    model = _found(repository.lock_model(name), name)
    if etag and etag != model.etag:
        raise EtagMismatch(
            f"{name} has changed since you read it (etag {model.etag}, yours is {etag[:64]}); read it again",
            metadata={"etag": model.etag},
        )
    return model


def _found(model: Model | None, name: ModelName) -> Model:
    if model is None:
        raise NotFound(f"{name} does not exist; list the models of projects/{name.project}")
    return model
