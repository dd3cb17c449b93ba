"""The course of measures for people: a table, or a drawing of characters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.cli.views.table import Table
from headrace.client.curves import Curve
from headrace.errors import NotFound

HEIGHT = 12  # lines of a drawing
_LABEL = 11  # columns of the values at its left
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character: 4 rows, 2 columns
_BRAILLE = 0x2800


def chosen(curves: Mapping[str, Curve], names: Sequence[str]) -> dict[str, Curve]:
    """Return the curves of these names, or all without any.

    Raises:
        NotFound: One is not there.
    """
    for name in names:
        if name not in curves:
            known = ", ".join(sorted(curves)) or "nothing yet"
            raise NotFound(f"the worker has not measured {name!r}, but {known}")
    return {name: curves[name] for name in names or sorted(curves)}


def curves_table(curves: Mapping[str, Curve]) -> Table:
    """Return one row for each measure."""
    rows = [_row(name, curve) for name, curve in curves.items() if curve.steps]
    columns = ["measure", ">points", ">first", ">least", ">greatest", ">last", ">at step"]
    return Table(columns, rows, "nothing was measured yet")


def _row(name: str, curve: Curve) -> list[str]:
    finite = [value for value in curve.values if math.isfinite(value)] or [math.nan]
    shown = (curve.values[0], min(finite), max(finite), curve.values[-1])
    return [name, str(len(curve.steps)), *(f"{value:.4g}" for value in shown), str(curve.steps[-1])]


def curves_data(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Return the curves as JSON has them; a NaN or an infinity is null there."""
    return {
        name: {
            "steps": curve.steps,
            "values": [value if math.isfinite(value) else None for value in curve.values],
        }
        for name, curve in curves.items()
    }


def drawn(curves: Mapping[str, Curve], width: int) -> list[str]:
    """Return every curve as lines of at most `width` characters, at least 40, drawn in braille."""
    return [line for name, curve in curves.items() for line in [*_drawing(name, curve, max(width, 40)), ""]]


def _drawing(name: str, curve: Curve, width: int) -> list[str]:
    points = [
        (step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)
    ]
    if not points:
        return [f"{name}: no finite value yet"]
    low, high = min(value for _, value in points), max(value for _, value in points)
    columns = width - _LABEL - 2
    cells = _cells(points, low, high, columns)
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"}
    begin, end = str(points[0][0]), f"step {points[-1][0]}"
    return [
        name,
        *(f"{labels.get(row, ''):>{_LABEL}} ┤{''.join(cells[row]).rstrip()}" for row in range(HEIGHT)),
        f"{'':{_LABEL}}  {begin}{end:>{columns - len(begin)}}",
    ]


def _cells(points: Sequence[tuple[int, float]], low: float, high: float, columns: int) -> list[list[str]]:
    dots = [[0] * columns for _ in range(HEIGHT)]
    first, steps = points[0][0], max(points[-1][0] - points[0][0], 1)
    places = [
        (
            round((step - first) / steps * (2 * columns - 1)),
            round(((high - value) / (high - low) if high > low else 0.5) * (4 * HEIGHT - 1)),
        )
        for step, value in points
    ]
    for begin, end in zip(places, [*places[1:], places[-1]], strict=True):
        for x, y in _line(begin, end):
            dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    return [[chr(_BRAILLE + dot) if dot else " " for dot in row] for row in dots]


def _line(begin: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the places of a straight line, without a gap."""
    (x0, y0), (x1, y1) = begin, end
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    for index in range(count + 1):
        yield x0 + round((x1 - x0) * index / count), y0 + round((y1 - y0) * index / count)
