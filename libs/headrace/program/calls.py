"""Calls of a user's program, which no type checker has seen: what is wrong there is blamed on it, by the name of the call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from headrace.data.dataset import Dataset
from headrace.data.rows import ArrayRows, Rows
from headrace.errors import HeadraceError, ProgramFailed
from headrace.program import Examples, Program, Split
from headrace.tasks.bounds import MAX_METRICS

Kind = TypeVar("Kind")
OpenDataset = Callable[[Dataset], Rows]


@contextmanager
def blamed(call: str) -> Iterator[None]:
    """Turn whatever the program raises within into ProgramFailed, whose traceback ends where the program raised it.

    Errors of headrace, and a lack of memory, say themselves what they are.
    """
    try:
        yield
    except (HeadraceError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and nothing of ours runs inside
        failed = ProgramFailed(f"the program's {call} raised {type(error).__name__}: {error}")
        raise failed.with_traceback(error.__traceback__) from None


def expected(value: object, kind: type[Kind], call: str, wanted: str) -> Kind:
    """Return what a call returned; ProgramFailed if it is not of this kind."""
    if not isinstance(value, kind):
        raise ProgramFailed(f"{call} returned a {type(value).__name__}; return {wanted}")
    return value


def load_split(program: Program, split: Split, open_dataset: OpenDataset = Dataset.open) -> Rows:
    """Ask the program for a split, and open it.

    Args:
        open_dataset: Opens data that are streamed.
    Raises:
        ProgramFailed: `data` raised, or returned neither `Examples` nor a `Dataset`, or what it returned is empty or ragged.
        DataUnreadable, DataChanged, Unavailable: What a `Dataset` describes cannot be read.
    """
    call = f"data({split!r})"
    with blamed(call):
        returned: object = program.data(split)
    if isinstance(returned, Dataset):
        return open_dataset(returned)
    data = expected(returned, Examples, call, "headrace.program.Examples or a headrace.data.Dataset")
    lengths = {name: len(array) for name, array in data.inputs.items()}
    if not data.inputs or not len(data):
        raise ProgramFailed(
            f"{call} has {len(data)} examples of {len(data.inputs)} inputs; return at least one"
        )
    if set(lengths.values()) != {len(data)}:
        raise ProgramFailed(f"{call} has {len(data)} targets and {lengths} inputs; return as many of each")
    return ArrayRows(data)


def measured(
    program: Program, outputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]
) -> dict[str, float]:
    """Ask the program how good `outputs` are.

    Raises:
        ProgramFailed: `metrics` raised, returned something else than a few numbers by name, or lacks the goal.
    """
    with blamed("metrics()"):
        returned: object = program.metrics(outputs, targets)
    named = expected(returned, dict, "metrics()", "a dict of numbers")
    if len(named) > MAX_METRICS:
        raise ProgramFailed(f"metrics() returned {len(named)} numbers; return at most {MAX_METRICS}")
    metrics = {str(name): _number(name, value) for name, value in named.items()}
    if program.goal.metric not in metrics:
        raise ProgramFailed(
            f"metrics() returns {', '.join(metrics) or 'nothing'}, but the goal is {program.goal.metric!r}; return that too"
        )
    return metrics


def _number(name: object, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ProgramFailed(f"metrics() returned {value!r} as {name!r}; return a number") from None
