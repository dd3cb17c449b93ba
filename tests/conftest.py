"""What holds for all tests."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says more of what else the machine does than of the code; pytest's timeout bounds a test.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and keep in one process what shares servers or would disturb each other."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _RANKS.get(_group(item), len(_RANKS)))


_RANKS = {"cluster": 0, "training": 1}  # the others follow as they are found: services before units


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("cluster"):
        return "cluster"  # one at a time: each has a dozen processes
    if item.path.is_relative_to(_TESTS / "services" / "training"):
        return "training"  # all share one set of processes
    return item.path.stem
