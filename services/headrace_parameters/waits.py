"""Calls that wait until a store has come as far as they need."""

from collections.abc import Callable, Sequence

from headrace_parameters.core.config import Norms
from headrace_parameters.core.exchange import Published
from headrace_parameters.core.need import Need
from headrace_parameters.live import LiveStore
from headrace_parameters.news import Found


def wait_for_values(
    store: LiveStore, need: Need, timeout_s: float, wanted: Callable[[], bool], generation: int | None
) -> Published:
    """Return the values as soon as they hold what `need` asks for; the caller reads them, and ends that.

    Args:
        wanted: Whether somebody still waits; asked again at every change.
        generation: The caller's, whose gradient another one may have dropped; None: it is no member.
    Raises:
        DeadlineExceeded: It did not come in time; the message says whose gradients are missing.
        MembersChanged: There is another generation.
        HeadraceError: Why the store ended meanwhile.
    """

    def fitting() -> Published | None:
        published = store.published
        met = published and need.met_by(published.version, published.slowest)
        return published if published and met and published.readers.begin() else None

    published = _wait(store, fitting, timeout_s, wanted, generation)
    if published is None:
        raise store.too_late(need)
    return published


def wait_for_norms(
    store: LiveStore,
    step: int,
    norms: Norms,
    timeout_s: float,
    wanted: Callable[[], bool],
    generation: int | None,
) -> Sequence[float] | None:
    """Return the squared norms of this shard's part of a step, once they are known; None: the step is long applied.

    Args:
        wanted, generation: As for `wait_for_values`.
    Raises:
        DeadlineExceeded, MembersChanged, HeadraceError: As `wait_for_values`.
    """

    def known() -> bool:
        measured, published = store.measured(norms), store.published
        if measured and measured.step >= step:
            return True
        return published is not None and published.version > step

    if not _wait(store, known, timeout_s, wanted, generation):
        raise store.too_late(Need(version=step + 1))
    measured = store.measured(norms)
    return measured.squared_norms if measured and measured.step == step else None


def _wait(
    store: LiveStore,
    find: Callable[[], Found],
    timeout_s: float,
    wanted: Callable[[], bool],
    generation: int | None,
) -> Found:
    def over() -> bool:
        return not wanted() or generation not in (None, store.members.generation)

    found = store.news.wait_for(find, timeout_s, over)
    if not found and generation is not None:
        store.members.check_generation(generation)
    return found
