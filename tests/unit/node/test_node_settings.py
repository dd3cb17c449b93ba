"""What a node is called and where it is reached."""

import pytest
from pydantic_settings import SettingsConfigDict

from headrace.config import ConfigError, load
from headrace.node import NodeSettings
from headrace.node.settings import default_node_id, reachable
from headrace.scheduler.v1.nodes_pb2 import NODE_KIND_TRAINING


class Settings(NodeSettings):
    model_config = SettingsConfigDict(env_prefix="HEADRACE_TEST_")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("worker-1", "training-worker-1"),
        ("Big_Box.local", "training-big_box.local"),
        ("x" * 80, "training-" + "x" * 54),
    ],
)
def test_the_default_id_is_made_of_service_and_host(host: str, expected: str) -> None:
    assert default_node_id("training", host) == expected


def test_a_server_on_every_interface_is_reached_by_its_hosts_name() -> None:
    assert reachable("0.0.0.0:8474", "worker-1") == "worker-1:8474"
    assert reachable("127.0.0.1:8474", "worker-1") == "127.0.0.1:8474"


def test_hello_says_who_where_and_how_much() -> None:
    settings = load(
        Settings, {"HEADRACE_TEST_NODE_ID": "t", "HEADRACE_TEST_SLOTS": "3", "HEADRACE_TEST_POOL": "gpu"}
    )
    hello = settings.hello("training", NODE_KIND_TRAINING, "127.0.0.1:9")
    assert (hello.node, hello.pool, hello.slots, hello.address) == ("nodes/t", "pools/gpu", 3, "127.0.0.1:9")
    assert hello.incarnation == settings.hello("training", NODE_KIND_TRAINING, "127.0.0.1:9").incarnation


def test_every_mistake_is_reported_at_once() -> None:
    environ = {
        "HEADRACE_TEST_NODE_ID": "No Such",
        "HEADRACE_TEST_SCHEDULER_ADDRESS": "a:0",
        "HEADRACE_TEST_SLOTS": "0",
    }
    with pytest.raises(ConfigError) as error:
        load(Settings, environ)
    assert {mistake.variable for mistake in error.value.mistakes} == set(environ)
