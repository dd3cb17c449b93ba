"""Which processes make a headrace on one machine, and how they find each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.local.child import ProcessSpec
from headrace.rpc.addresses import join_address
from headrace.rpc.ports import free_port

SCHEDULER_PORT = 8470
_HOST = "127.0.0.1"
_WITH_FOLDER = frozenset(
    {"registry", "scheduler", "parameters", "training", "optimization"}
)  # inference keeps nothing on disk


@dataclass(frozen=True)
class Sizes:
    """How many processes of each kind of node, each at least 1."""

    workers: int = 2
    shards: int = 2
    optimizers: int = 1
    replicas: int = 1


def plan(
    data_dir: Path,
    sizes: Sizes,
    *,
    port: int = SCHEDULER_PORT,
    take_port: Callable[[], int] = free_port,
    training: Mapping[str, str] | None = None,
    allowed_updates: str = "",
    object_storage_file: Path | None = None,
) -> list[ProcessSpec]:
    """Return the processes in the order they are started.

    The scheduler, the registry and the first inference node stand on `port`, `port` + 1 and `port` + 2, where people look for
    them; `port` 0 takes free ones. All other processes take free ports, and keep them when they are started again.

    Args:
        training: Further settings of the training nodes.
        allowed_updates: Modules, separated by commas, whose optimizers may run.
        object_storage_file: Options of the object stores that data are read from, for training and optimization nodes.
    """
    registry, scheduler, inference = (
        join_address(_HOST, port + offset if port else take_port()) for offset in (1, 0, 2)
    )
    reading = {"OBJECT_STORAGE_FILE": str(object_storage_file.resolve())} if object_storage_file else {}
    planner = _Planner(data_dir.resolve(), scheduler, registry, take_port)
    return [
        planner.service("registry", registry),
        planner.service("scheduler", scheduler, REGISTRY_ADDRESS=registry),
        *planner.nodes("parameters", sizes.shards, ALLOWED_UPDATES=allowed_updates),
        *planner.nodes(
            "training",
            sizes.workers,
            ALLOW_ARCHIVES="true",
            ALLOWED_UPDATES=allowed_updates,
            **reading,
            **(training or {}),
        ),
        *planner.nodes("optimization", sizes.optimizers, ALLOW_ARCHIVES="true", **reading),
        *planner.nodes(
            "inference",
            sizes.replicas,
            first=inference,
            CACHE_DIR=str(planner.data_dir / "inference-cache"),  # which all of them share
        ),
    ]


@dataclass(frozen=True)
class _Planner:
    data_dir: Path
    scheduler: str
    registry: str
    take_port: Callable[[], int]

    def nodes(self, service: str, count: int, *, first: str = "", **settings: str) -> Iterator[ProcessSpec]:
        for index in range(count):
            name = f"{service}-{index}"
            address = first if first and index == 0 else join_address(_HOST, self.take_port())
            yield self.service(
                service,
                address,
                name=name,
                NODE_ID=name,
                SCHEDULER_ADDRESS=self.scheduler,
                REGISTRY_ADDRESS=self.registry,
                **settings,
            )

    def service(self, service: str, address: str, *, name: str = "", **settings: str) -> ProcessSpec:
        name = name or service
        settings = dict(settings)
        if service in _WITH_FOLDER:
            settings["DATA_DIR"] = str(self.data_dir / name)
        shared = {
            "ADDRESS": address,
            "METRICS_ADDRESS": join_address(_HOST, self.take_port()),
            "LOG_FORMAT": "json",
            "STOP_ON_STDIN_EOF": "true",
        }
        prefix = f"HEADRACE_{service.upper()}_"
        environment = {prefix + key: value for key, value in {**shared, **settings}.items()}
        return ProcessSpec(name, f"headrace_{service}", address, environment)
