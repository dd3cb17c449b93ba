"""The course of measures as a picture; matplotlib is imported only when somebody wants one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace.client.curves import Curve

_INCHES = (8.0, 2.4)  # of one curve; they stand one below the other


def write_png(curves: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Draw every curve into a PNG file.

    Raises:
        OSError: It cannot be written.
    """
    from matplotlib.figure import Figure

    count = max(len(curves), 1)
    figure = Figure(figsize=(_INCHES[0], _INCHES[1] * count), layout="constrained")
    figure.suptitle(title)
    for axes, (name, curve) in zip(figure.subplots(count, squeeze=False)[:, 0], curves.items(), strict=False):
        axes.plot(curve.steps, curve.values, linewidth=1.2)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    figure.axes[-1].set_xlabel("step")
    figure.savefig(path, format="png", dpi=120)
