"""Plot: what a report says, as a picture for people.

On the left quality against latency, a marker's area showing the file's size, gates as lines with the refused side shaded; on the
right the latency at every batch size. Drawn without pyplot, so there is no display and no global state; PNG means the Agg canvas.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from headrace.optimization.report import Candidate, Report

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
REFUSED = "#d64545"
COLORS = ("#486581", "#0f9d8a", "#c99a2e", "#8662c7")  # fp32 in a quiet tone: it is the reference
WIDTH_IN, HEIGHT_IN, DPI = 10.5, 4.8, 150
LARGEST_MARKER_PT2 = 1400.0
PADDING = 0.35  # of the data's extent, so that labels and markers stay inside
HALO = [withStroke(linewidth=3, foreground="white")]  # keeps text readable across lines and markers
GATE_TEXT: Mapping[str, Any] = {"fontsize": 8, "color": REFUSED, "path_effects": HALO, "zorder": 5}


def draw_report(report: Report) -> bytes:
    """Draw `report` and return a PNG of 1575 x 720 pixels."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        1, 2, width_ratios=(1.5, 1), wspace=0.24, left=0.075, right=0.975, top=0.77, bottom=0.13
    )
    colors = {candidate.name: COLORS[i % len(COLORS)] for i, candidate in enumerate(report.candidates)}
    _draw_title(figure, report)
    _draw_tradeoff(figure.add_subplot(grid[0]), report, colors)
    _draw_latencies(figure.add_subplot(grid[1]), report, colors)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Title": _title(report), "Software": None})
    return image.getvalue()


def _title(report: Report) -> str:
    return f"{report.source_version}: {report.pick.candidate} is served"


def _draw_title(figure: Figure, report: Report) -> None:
    figure.text(0.02, 0.935, _title(report), fontsize=13, fontweight="bold", color=INK)
    machine = f"{report.machine.get('processor', 'unknown processor')}, {report.threads} thread{'s' * (report.threads > 1)}"
    facts = f"{report.pick.why}  ·  {report.test_examples} test examples  ·  {machine}"
    figure.text(0.02, 0.878, facts, fontsize=9, color=MUTED)


def _draw_tradeoff(axes: Axes, report: Report, colors: Mapping[str, str]) -> None:
    _style(axes)
    axes.set_title("Quality against latency; area is the file's size", loc="left", fontsize=10, color=INK)
    axes.set_xlabel(f"median latency at batch {report.options.batch_sizes[0]}, ms", color=MUTED)
    axes.set_ylabel(f"{report.goal.metric} on the test split", color=MUTED)
    _set_limits(axes, report)
    _draw_drop_gate(axes, report)
    _draw_speed_gate(axes, report)
    largest = max(candidate.size_bytes for candidate in report.candidates)
    for i, candidate in enumerate(_drawable(report)):
        share = candidate.size_bytes / largest
        _draw_marker(axes, candidate, report, colors[candidate.name], share)
        _draw_label(axes, candidate, report, lift=16 if i == 0 else -16)
    hidden = [one for one in report.candidates if one not in _drawable(report)]
    notes = "\n".join(" · ".join(_notes(candidate, report)) for candidate in hidden)
    axes.text(0.985, 0.02, notes, transform=axes.transAxes, ha="right", **GATE_TEXT)


def _drawable(report: Report) -> list[Candidate]:
    """List the candidates with a place on the plot: a broken one may have a metric that is no number."""
    return [one for one in report.candidates if math.isfinite(one.metrics[report.goal.metric])]


def _set_limits(axes: Axes, report: Report) -> None:
    """Show every candidate and the drop gate, with room for their labels."""
    xs = [candidate.decisive_p50_ms for candidate in _drawable(report)]
    ys = [candidate.metrics[report.goal.metric] for candidate in _drawable(report)]
    low_x, high_x = _padded(min(xs), max(xs))
    low_y, high_y = _padded(min(*ys, _drop_limit(report)), max(*ys, _drop_limit(report)))
    axes.set_xlim(max(low_x, 0.0), high_x)
    axes.set_ylim(low_y, high_y)


def _padded(low: float, high: float) -> tuple[float, float]:
    extent = (high - low) or abs(high) or 1.0
    return low - PADDING * extent, high + PADDING * extent


def _drop_limit(report: Report) -> float:
    """Find the worst value of the goal metric that still passes."""
    reference = report.candidates[0].metrics[report.goal.metric]
    allowed = report.options.gates.max_metric_drop
    return reference - allowed if report.goal.best == "max" else reference + allowed


def _draw_drop_gate(axes: Axes, report: Report) -> None:
    limit, (low, high) = _drop_limit(report), axes.get_ylim()
    larger_is_better = report.goal.best == "max"
    axes.axhspan(*((low, limit) if larger_is_better else (limit, high)), color=REFUSED, alpha=0.07, lw=0)
    axes.axhline(limit, color=REFUSED, lw=1, ls=(0, (5, 3)))
    axes.annotate(
        f"gate: at most {report.options.gates.max_metric_drop:g} worse than fp32",
        (0.015, limit),
        xycoords=axes.get_yaxis_transform(),
        # Points: within what it refuses, where nothing served can be.
        xytext=(0, -4 if larger_is_better else 4),
        textcoords="offset points",
        va="top" if larger_is_better else "bottom",
        **GATE_TEXT,
    )


def _draw_speed_gate(axes: Axes, report: Report) -> None:
    least = report.options.gates.min_speedup
    if least is None:
        return
    limit_ms, (low_ms, high_ms) = report.candidates[0].decisive_p50_ms / least, axes.get_xlim()
    low_ms, high_ms = min(low_ms, limit_ms * 0.9), max(high_ms, limit_ms * 1.1)
    axes.set_xlim(low_ms, high_ms)
    axes.axvspan(limit_ms, high_ms, color=REFUSED, alpha=0.07, lw=0)
    axes.axvline(limit_ms, color=REFUSED, lw=1, ls=(0, (5, 3)))
    axes.annotate(
        f"gate: at least {least:g} times as fast",
        (limit_ms, 0.985),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        rotation=90,
        va="top",
        **GATE_TEXT,
    )


def _draw_marker(axes: Axes, candidate: Candidate, report: Report, color: str, share: float) -> None:
    point = (candidate.decisive_p50_ms, candidate.metrics[report.goal.metric])
    axes.scatter(*point, s=LARGEST_MARKER_PT2 * share, color=color, alpha=0.85, lw=0, zorder=3)
    if candidate.name == report.pick.candidate:
        axes.scatter(
            *point, s=LARGEST_MARKER_PT2 * share + 500, facecolor="none", edgecolor=INK, lw=1.6, zorder=4
        )


def _draw_label(axes: Axes, candidate: Candidate, report: Report, lift: int) -> None:
    """Write beside the marker what it stands for, leaning to the middle, away from the frame."""
    x, y = candidate.decisive_p50_ms, candidate.metrics[report.goal.metric]
    right = x > sum(axes.get_xlim()) / 2
    axes.annotate(
        "\n".join(_notes(candidate, report)),
        (x, y),
        xytext=(-28 if right else 28, lift),
        textcoords="offset points",
        fontsize=8.5,
        ha="right" if right else "left",
        va="center",
        color=INK if candidate.passed else REFUSED,
        path_effects=HALO,
        zorder=5,
    )


def _notes(candidate: Candidate, report: Report) -> list[str]:
    state = (
        " (served)" if candidate.name == report.pick.candidate else "" if candidate.passed else " (failed)"
    )
    value, p50_ms = candidate.metrics[report.goal.metric], candidate.decisive_p50_ms
    failed = [verdict.reason for verdict in candidate.gates if not verdict.passed]
    return [
        f"{candidate.name}{state}",
        f"{value:.4g}, {p50_ms:.3g} ms, {_size(candidate.size_bytes)}",
        *failed,
    ]


def _draw_latencies(axes: Axes, report: Report, colors: Mapping[str, str]) -> None:
    _style(axes)
    axes.set_title("Latency, ms: bars p50, lines up to p99", loc="left", fontsize=10, color=INK)
    axes.grid(visible=False, axis="x")
    width = 0.8 / len(report.candidates)
    for i, candidate in enumerate(report.candidates):
        middles = [group - 0.4 + width * (i + 0.5) for group in range(len(candidate.latency))]
        medians = [latency.p50_ms for latency in candidate.latency]
        tails = [latency.p99_ms - latency.p50_ms for latency in candidate.latency]
        axes.bar(middles, medians, width * 0.92, color=colors[candidate.name], label=candidate.name, zorder=2)
        axes.errorbar(
            middles,
            medians,
            yerr=[[0.0] * len(tails), tails],
            fmt="none",
            ecolor=INK,
            lw=1,
            capsize=3,
            zorder=3,
        )
    axes.set_xticks(
        range(len(report.options.batch_sizes)), [f"batch {size}" for size in report.options.batch_sizes]
    )
    axes.margins(y=0.2)
    axes.legend(frameon=False, fontsize=9, loc="upper left", labelcolor=INK)


def _style(axes: Axes) -> None:
    axes.grid(visible=True, color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(GRID)


def _size(size_bytes: int) -> str:
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
