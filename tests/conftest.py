"""What holds for all tests."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# How long one example takes says more of what else the machine does than of the code; pytest's timeout bounds a test.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent
_RANKS = {"cluster": 0, "training": 1}  # the others follow as they are found: services before units


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: _RANKS.get(_group(item.path), len(_RANKS)))


class _Grouped(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
    """Keeps in one process what shares servers or would disturb each other: `make test` asks for it by `--dist loadgroup`.

    pytest-xdist's own groups are marks that it writes into names of tests, which pytest 9.2 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(self.config.rootpath / nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Grouped | None:
    return _Grouped(config, log) if config.getoption("dist") == "loadgroup" else None


def _group(path: Path) -> str:
    parts = path.relative_to(_TESTS).parts
    if parts[0] in ("cluster", "docs") or path.stem == "test_cli_road":
        return "cluster"  # one at a time: each has a dozen processes
    if parts[:2] == ("services", "training"):
        return "training"  # all share one set of processes
    return path.stem
