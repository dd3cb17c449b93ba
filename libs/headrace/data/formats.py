"""The formats, as a program names them. `places` is a file, a folder, a pattern or a URL, or several; see `storage.finding.find_files`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headrace.data.columns import Columns
from headrace.data.dataset import Dataset
from headrace.data.sources import Source
from headrace.data.storage.finding import Places, find_files

Inputs = Mapping[str, str | Sequence[str]]


def parquet(
    places: Places, *, inputs: Inputs, target: str | Sequence[str], storage: Mapping[str, str] | None = None
) -> Dataset:
    """Describe Parquet files.

    Args:
        inputs: By each argument of the model's `forward`: a column, whose lists become further axes, or several columns, whose numbers
            stand side by side as float32.
        target: A column, or several.
        storage: Options of the object store, as obstore names them; nothing secret, for a program's source is not.
    """
    return Dataset(Parquet(places, Columns.of(inputs, target)), storage or {})


def csv(
    places: Places,
    *,
    inputs: Inputs,
    target: str | Sequence[str],
    delimiter: str = ",",
    names: Sequence[str] | None = None,
    types: Mapping[str, str] | None = None,
    storage: Mapping[str, str] | None = None,
) -> Dataset:
    """Describe CSV files in UTF-8, plain or .gz.

    Args:
        inputs, target, storage: As for `parquet`.
        names: Of the columns, if the files have no header.
        types: Of columns by name, such as "float32" or "string", where the first rows do not show it.
    """
    named = tuple(names) if names else None
    return Dataset(Csv(places, Columns.of(inputs, target), delimiter, named, types or {}), storage or {})


def jsonl(
    places: Places,
    *,
    inputs: Inputs,
    target: str | Sequence[str],
    types: Mapping[str, str] | None = None,
    storage: Mapping[str, str] | None = None,
) -> Dataset:
    """Describe files with one JSON object in each line, plain or .gz.

    Args:
        inputs, target, storage: As for `parquet`, with fields for columns.
        types: As for `csv`.
    """
    return Dataset(JsonLines(places, Columns.of(inputs, target), types or {}), storage or {})


def npz(
    places: Places, *, inputs: Inputs, target: str | Sequence[str], storage: Mapping[str, str] | None = None
) -> Dataset:
    """Describe archives of `numpy.savez`; those of `savez_compressed` are unpacked to disk first.

    Args:
        inputs, target, storage: As for `parquet`, with arrays for columns.
    """
    return Dataset(Npz(places, Columns.of(inputs, target)), storage or {})


def images(
    places: Places,
    *,
    size: tuple[int, int] | None = None,
    color: Literal["rgb", "gray"] = "rgb",
    classes: Sequence[str] | None = None,
    input: str = "image",  # noqa: A002 - what it is called everywhere else
    storage: Mapping[str, str] | None = None,
) -> Dataset:
    """Describe folders with one folder of images per class: float32 (channels, height, width) in [0, 1], and the class's number.

    Args:
        size: Height and width that all are scaled to; needed unless they have the same.
        classes: The folders' names in the order of the class numbers; else all that are there, by name. Give it where a split may lack one.
        input: The argument of the model's `forward`.
        storage: As for `parquet`.
    """
    kept = tuple(classes) if classes else None
    return Dataset(Images(places, size, color, kept, input), storage or {})


def text(
    places: Places,
    *,
    context: int,
    input: str = "tokens",  # noqa: A002 - what it is called everywhere else
    storage: Mapping[str, str] | None = None,
) -> Dataset:
    """Describe text, plain or .gz, for a language model over bytes: int64 codes 0 to 255 of shape (context,), and those one further.

    Args:
        context: Bytes of an example, >= 1.
        input: The argument of the model's `forward`.
        storage: As for `parquet`.
    """
    if context < 1:
        raise ValueError(f"context is {context}; give 1 or more")
    return Dataset(Text(places, context, input), storage or {})


@dataclass(frozen=True)
class Parquet:
    """See `parquet`."""

    places: Places
    columns: Columns

    def open(self, storage: Mapping[str, str]) -> Source:
        """Read the footers."""
        from headrace.data.sources.parquet import ParquetSource

        return ParquetSource(find_files(self.places, storage, (".parquet", ".pq")), self.columns)


@dataclass(frozen=True)
class Csv:
    """See `csv`."""

    places: Places
    columns: Columns
    delimiter: str = ","
    names: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def open(self, storage: Mapping[str, str]) -> Source:
        """Find the rows."""
        from headrace.data.sources.csv import CsvSource

        files = find_files(self.places, storage, (".csv", ".tsv", ".csv.gz", ".tsv.gz"))
        return CsvSource(files, self.columns, delimiter=self.delimiter, names=self.names, types=self.types)


@dataclass(frozen=True)
class JsonLines:
    """See `jsonl`."""

    places: Places
    columns: Columns
    types: Mapping[str, str] = field(default_factory=dict)

    def open(self, storage: Mapping[str, str]) -> Source:
        """Find the lines."""
        from headrace.data.sources.json_lines import JsonLinesSource

        files = find_files(self.places, storage, (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz"))
        return JsonLinesSource(files, self.columns, types=self.types)


@dataclass(frozen=True)
class Npz:
    """See `npz`."""

    places: Places
    columns: Columns

    def open(self, storage: Mapping[str, str]) -> Source:
        """Read where the arrays lie."""
        from headrace.data.sources.npz import NpzSource, RangedNpzSource

        files = find_files(self.places, storage, (".npz",))
        near = all(file.is_near for file in files)
        return (NpzSource if near else RangedNpzSource)(files, self.columns)


@dataclass(frozen=True)
class Images:
    """See `images`."""

    places: Places
    size: tuple[int, int] | None
    color: Literal["rgb", "gray"]
    classes: tuple[str, ...] | None
    input: str

    def open(self, storage: Mapping[str, str]) -> Source:
        """List the images."""
        from headrace.data.sources.images import SUFFIXES, ImageSource

        files = find_files(self.places, storage, SUFFIXES)
        return ImageSource(files, name=self.input, size=self.size, color=self.color, classes=self.classes)


@dataclass(frozen=True)
class Text:
    """See `text`."""

    places: Places
    context: int
    input: str

    def open(self, storage: Mapping[str, str]) -> Source:
        """Count the windows."""
        from headrace.data.sources.text import RangedTextSource, TextSource

        files = find_files(self.places, storage)
        near = all(file.is_near for file in files)
        return (TextSource if near else RangedTextSource)(files, name=self.input, context=self.context)
