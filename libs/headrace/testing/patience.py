"""Waits for what no event announces to the test: another process's server begins to answer, a file is gone."""

import time
from collections.abc import Callable

WITHIN_S = 60.0  # on a machine as busy as any: only a test that fails waits so long
PAUSE_S = 0.005


def until(holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Return when `holds()` is true; it is asked again and again, the last time when `within_s` seconds have passed.

    Raises:
        AssertionError: It did not come to hold.
    """
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"it did not come to hold within {within_s:g} s"
        time.sleep(PAUSE_S)
