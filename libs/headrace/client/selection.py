"""Which values of a run become the version, as people say it."""

from __future__ import annotations

from typing import Literal, TypedDict

from headrace.client.choices import choose
from headrace.errors import InvalidArgument
from headrace.training.v1 import workers_pb2 as training

Registered = Literal["best", "last"]
Larger = Literal["max", "min"]

_DIRECTIONS = {
    "": training.DIRECTION_UNSPECIFIED,
    "max": training.DIRECTION_MAX,
    "min": training.DIRECTION_MIN,
}


class SelectionOptions(TypedDict, total=False):
    """When to stop early and what to keep; needs `evaluate_every_steps`."""

    patience: int  # 0: never; evaluations in a row without a better one after which the run ends
    minimum_improvement: float  # 0; by how much more than this a better one is better, in units of the metric
    metric: str  # "": the program's goal; what is compared, one that the program's metrics() returns
    metric_best: Larger | None  # as the goal says; for another metric it must be said
    register: Registered | None  # "best" with patience, else "last"; the values that become the version


def selection(
    patience: int,
    minimum_improvement: float,
    metric: str,
    metric_best: Larger | None,
    register: Registered | None,
) -> training.Selection | None:
    """Return what to look for; None if nobody asks for it.

    Raises:
        InvalidArgument: A value that no service could take.
    """
    kept = register or ("best" if patience else "last")
    last = choose("register", kept, {"best": False, "last": True})
    if not 0 <= patience < 1 << 32:
        raise InvalidArgument(
            f"patience is {patience!r}; it must be a whole number of at least 0", field="patience"
        )
    if last and not patience:
        _refuse_idle(
            {"minimum_improvement": minimum_improvement, "metric": metric, "metric_best": metric_best}
        )
        return None
    return training.Selection(
        metric=metric,
        direction=choose("metric_best", metric_best or "", _DIRECTIONS),
        patience=patience,
        minimum_improvement=minimum_improvement,
        register_last=last,
    )


def _refuse_idle(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value:
            raise InvalidArgument(
                f'{name} is {value!r}, but nothing is compared; give patience, or register="best", too',
                field=name,
            )
