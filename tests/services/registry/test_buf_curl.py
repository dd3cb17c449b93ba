"""Somebody with a generic client and no stubs: `buf curl` learns the services by reflection, and calls them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from headrace.registry.client import RegistryClient
from headrace.testing.server import ServedChannel

MAKEFILE = Path(__file__).parents[3] / "Makefile"
NPX_S = 90  # the first time, npx fetches buf

pytestmark = pytest.mark.skipif(
    shutil.which("npx") is None, reason="npx is missing, and buf comes through it: install npm to run this"
)


def buf_curl(*arguments: str) -> str:
    """Run the version of buf that the Makefile names."""
    pinned = re.search(r"^BUF := npx --yes (\S+)$", MAKEFILE.read_text(), re.MULTILINE)
    assert pinned
    command = ["npx", "--yes", pinned[1], "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=NPX_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_buf_lists_the_methods_of_a_registry_by_reflection(channel: ServedChannel) -> None:
    methods = buf_curl("--list-methods", f"http://{channel.address}").splitlines()
    assert "headrace.registry.v1.Models/GetModel" in methods
    assert "headrace.registry.v1.Artifacts/Upload" in methods
    assert "grpc.health.v1.Health/Check" in methods


def test_buf_calls_a_registry_it_knows_only_by_reflection(
    channel: ServedChannel, client: RegistryClient
) -> None:
    name = client.upload_bytes("default", b"weights")
    answer = buf_curl(
        "--data",
        json.dumps({"name": name}),
        f"http://{channel.address}/headrace.registry.v1.Artifacts/GetArtifact",
    )
    assert json.loads(answer)["name"] == name
