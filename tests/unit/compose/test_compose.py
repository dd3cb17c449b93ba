"""compose.yaml and the image agree with the services' real settings."""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.config import ServiceSettings, load
from headrace.rpc.addresses import split_address

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = ("registry", "scheduler", "parameters", "training", "optimization", "inference")


def container(service: str) -> dict[str, Any]:
    return dict(COMPOSE["services"][service])


def settings(service: str) -> ServiceSettings:
    """Load the service's settings from the environment its container gets; every mistake raises."""
    cls: type[ServiceSettings] = importlib.import_module(f"headrace_{service}.settings").Settings
    return load(cls, container(service)["environment"])


def test_every_service_has_one_container() -> None:
    assert set(COMPOSE["services"]) == {*SERVICES, "cli"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_runs_a_module_that_exists(service: str) -> None:
    python, flag, module = container(service)["command"]

    assert (python, flag) == ("python", "-m")
    assert importlib.util.find_spec(f"{module}.__main__")


@pytest.mark.parametrize("service", SERVICES)
def test_the_environment_holds_valid_settings_of_the_service(service: str) -> None:
    assert settings(service).allow_unauthenticated


@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_asks_the_port_the_service_listens_on(service: str) -> None:
    *command, address = container(service)["healthcheck"]["test"]

    assert command == ["CMD", "python", "-m", "headrace.rpc.healthcheck"]
    assert split_address(address)[1] == split_address(settings(service).address)[1]


@pytest.mark.parametrize("service", SERVICES)
def test_the_default_ports_are_kept(service: str) -> None:
    cls: type[ServiceSettings] = importlib.import_module(f"headrace_{service}.settings").Settings
    defaults, inside = load(cls, {}), settings(service)

    assert split_address(inside.address)[1] == split_address(defaults.address)[1]
    assert split_address(inside.metrics_address)[1] == split_address(defaults.metrics_address)[1]


@pytest.mark.parametrize("service", SERVICES)
def test_addresses_of_other_services_are_their_containers_and_ports(service: str) -> None:
    for key, value in container(service)["environment"].items():
        if found := re.fullmatch(r"HEADRACE_[A-Z]+_(SCHEDULER|REGISTRY)_ADDRESS", key):
            host, port = split_address(value)
            assert host == found[1].lower()
            assert port == split_address(settings(host).address)[1]


@pytest.mark.parametrize("service", SERVICES)
def test_published_ports_reach_the_service_and_only_from_this_machine(service: str) -> None:
    inside = {
        split_address(settings(service).address)[1],
        split_address(settings(service).metrics_address)[1],
    }

    for published in container(service).get("ports", []):
        host, _, target = published.rsplit(":", 2)
        assert host == "127.0.0.1"
        assert int(target) in inside


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_is_locked_down_and_limited(service: str) -> None:
    facts = container(service)

    assert facts["read_only"] is True
    assert facts["user"] != "0:0"
    assert facts["cap_drop"] == ["ALL"]
    assert set(facts["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@pytest.mark.parametrize("service", SERVICES)
def test_docker_waits_longer_than_the_service_drains(service: str) -> None:
    assert int(container(service)["stop_grace_period"].removesuffix("s")) > settings(service).drain_s


@pytest.mark.parametrize("service", SERVICES)
def test_a_writable_data_folder_is_mounted_where_the_service_keeps_data(service: str) -> None:
    facts = container(service)
    folder = str(getattr(settings(service), "data_dir", ""))
    mounts = [mount.partition(":")[2] for mount in facts.get("volumes", [])]
    mounts += [mount.partition(":")[0] for mount in facts["tmpfs"]]

    assert not folder or folder in mounts


def test_services_start_after_what_they_need() -> None:
    order = ["registry", "scheduler", "parameters", "training", "optimization", "inference"]
    for index, service in enumerate(order):
        for needed, condition in container(service).get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert order.index(needed) < index


def test_what_must_outlive_a_container_is_on_a_named_volume() -> None:
    for service in ("registry", "scheduler"):
        (volume,) = container(service)["volumes"]
        assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_a_scaled_service_has_neither_a_fixed_name_nor_a_fixed_host_port() -> None:
    for service in ("parameters", "training", "optimization", "inference"):
        facts = container(service)
        assert "container_name" not in facts
        assert all("-" in published for published in facts.get("ports", []))


def test_the_image_copies_every_package_and_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()

    for folder in ("libs", "services", "examples"):
        assert f"COPY {folder} {folder}" in dockerfile
    assert "USER headrace" in dockerfile
    assert f"--uid {container('registry')['user'].split(':')[0]}" in dockerfile
