"""Which processes make a headrace on one machine."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from headrace.local.plan import Sizes, plan


@pytest.fixture
def ports() -> Iterator[int]:
    return count(20_000)


def test_the_registry_and_the_scheduler_start_before_the_nodes_that_look_for_them(
    tmp_path: Path, ports: Iterator[int]
) -> None:
    specs = plan(tmp_path, Sizes(), take_port=lambda: next(ports))

    assert [spec.name for spec in specs[:2]] == ["registry", "scheduler"]


def test_people_find_scheduler_registry_and_inference_on_consecutive_ports(
    tmp_path: Path, ports: Iterator[int]
) -> None:
    addresses = {
        spec.name: spec.address for spec in plan(tmp_path, Sizes(), port=8470, take_port=lambda: next(ports))
    }

    assert addresses["scheduler"] == "127.0.0.1:8470"
    assert addresses["registry"] == "127.0.0.1:8471"
    assert addresses["inference-0"] == "127.0.0.1:8472"


def test_no_two_processes_share_an_address_or_a_folder(tmp_path: Path, ports: Iterator[int]) -> None:
    specs = plan(
        tmp_path, Sizes(workers=3, shards=4, optimizers=2, replicas=2), port=0, take_port=lambda: next(ports)
    )

    assert len(specs) == 2 + 3 + 4 + 2 + 2
    assert len({spec.address for spec in specs}) == len(specs)
    folders = [
        value for spec in specs for key, value in spec.environment.items() if key.endswith("_DATA_DIR")
    ]
    assert len(set(folders)) == len(folders) == 2 + 3 + 4 + 2


def test_every_node_knows_where_scheduler_and_registry_are(tmp_path: Path, ports: Iterator[int]) -> None:
    specs = plan(tmp_path, Sizes(), take_port=lambda: next(ports))

    for spec in specs[2:]:
        prefix = spec.module.upper()
        assert spec.environment[f"{prefix}_SCHEDULER_ADDRESS"] == specs[1].address
        assert spec.environment[f"{prefix}_REGISTRY_ADDRESS"] == specs[0].address


def test_settings_of_training_nodes_reach_them_alone(tmp_path: Path) -> None:
    ports = count(20_000)
    specs = plan(tmp_path, Sizes(), take_port=lambda: next(ports), training={"TENSORBOARD_DIR": "/runs"})
    told = {spec.name for spec in specs if "/runs" in spec.environment.values()}
    assert told == {"training-0", "training-1"}


def test_modules_whose_optimizers_may_run_are_told_where_they_run(
    tmp_path: Path, ports: Iterator[int]
) -> None:
    specs = plan(tmp_path, Sizes(), allowed_updates="mine,ours.rules", take_port=lambda: next(ports))

    told = {spec.name for spec in specs if "mine,ours.rules" in spec.environment.values()}
    assert told == {"parameters-0", "parameters-1", "training-0", "training-1"}


def test_nodes_that_read_data_are_told_of_object_stores(tmp_path: Path, ports: Iterator[int]) -> None:
    options = tmp_path / "storage.json"
    specs = plan(tmp_path, Sizes(), take_port=lambda: next(ports), object_storage_file=options)
    told = {
        spec.name
        for spec in specs
        for name, value in spec.environment.items()
        if name.endswith("_OBJECT_STORAGE_FILE") and value == str(options)
    }
    assert told == {"training-0", "training-1", "optimization-0"}
