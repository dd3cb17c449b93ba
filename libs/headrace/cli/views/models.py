"""Models and their versions for people."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.cli.views.table import Table
from headrace.cli.views.values import NOTHING, headline, measures, moment, size, word
from headrace.client.naming import short
from headrace.registry.v1.models_pb2 import FileRole, Model, Version


def models_table(models: Sequence[Model]) -> Table:
    """Return models, one per row."""
    rows = [
        [short(model.name), _aliases(model), moment(model.update_time), model.description or NOTHING]
        for model in models
    ]
    empty = "no models yet; `headrace train --help` shows how to make one"
    return Table(["model", "aliases", "changed", "description"], rows, empty)


def versions_table(model: Model, versions: Sequence[Version]) -> Table:
    """Return a model's versions, one per row."""
    pointing = _pointing(model)
    rows = [
        [
            short(version.name),
            ", ".join(pointing.get(version.name, ())) or NOTHING,
            short(version.source_version) if version.source_version else NOTHING,
            version.serving_file or NOTHING,
            ", ".join(headline(version.metrics)) or NOTHING,
            moment(version.create_time),
        ]
        for version in versions
    ]
    columns = ["version", "aliases", "made from", "serves", "measures", "created"]
    return Table(columns, rows, f"{short(model.name)} has no versions")


def version_facts(version: Version) -> Table:
    """Return everything about one version but its files."""
    program = version.program
    facts = [
        ("name", version.name),
        ("made from", version.source_version),
        ("made by", version.job),
        ("program", program.module or program.archive.object),
        ("serves", version.serving_file),
        *(("measure", text) for text in measures(version.metrics)),
        ("created", moment(version.create_time)),
        *((key, value) for key, value in sorted(version.labels.items())),
    ]
    return Table(["", ""], [fact for fact in facts if fact[1]])


def files_table(version: Version) -> Table:
    """Return a version's files, one per row."""
    rows = [
        [file.path, word(FileRole, file.role, "FILE_ROLE_"), size(file.size_bytes), short(file.artifact)[:12]]
        for file in version.files
    ]
    return Table(["file", "role", ">size", "sha256"], rows)


def _aliases(model: Model) -> str:
    pairs = sorted(model.aliases.items())
    return ", ".join(f"{alias} -> {short(version)}" for alias, version in pairs) or NOTHING


def _pointing(model: Model) -> dict[str, list[str]]:
    """Return the aliases of each version."""
    pointing: dict[str, list[str]] = {}
    for alias, version in sorted(model.aliases.items()):
        pointing.setdefault(version, []).append(alias)
    return pointing
