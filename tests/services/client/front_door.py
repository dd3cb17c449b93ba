"""A scheduler and a registry, as real processes on free ports, without any node."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.local.plan import Sizes, plan
from headrace.local.supervisor import Supervisor


@dataclass(frozen=True)
class FrontDoor:
    """Where the scheduler is, and what keeps it running."""

    address: str
    supervisor: Supervisor


@contextmanager
def open_front_door(
    folder: Path, announce: Callable[[str], None] = lambda _line: None
) -> Iterator[FrontDoor]:
    """Run both; what dies is started again at the same address."""
    specs = [
        spec for spec in plan(folder / "data", Sizes(), port=0) if spec.name in ("registry", "scheduler")
    ]
    addresses = {spec.name: spec.address for spec in specs}
    with Supervisor(specs, folder / "logs", announce) as supervisor:
        yield FrontDoor(addresses["scheduler"], supervisor)
