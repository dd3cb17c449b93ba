"""The supervisor keeps real processes running."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headrace.errors import FailedPrecondition
from headrace.local.child import ProcessSpec
from headrace.local.plan import Sizes, plan
from headrace.local.supervisor import Supervisor
from headrace.rpc.addresses import join_address
from headrace.rpc.healthcheck import serving
from headrace.testing import free_port, until


def registry(folder: Path, **settings: str) -> ProcessSpec:
    spec = plan(folder, Sizes(), port=0)[0]
    return ProcessSpec(spec.name, spec.module, spec.address, {**spec.environment, **settings})


def test_a_child_that_is_killed_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    spec = registry(tmp_path)
    again = threading.Event()
    announce: Callable[[str], None] = lambda line: again.set() if "started again" in line else None  # noqa: E731

    with Supervisor([spec], tmp_path / "logs", announce) as supervisor:
        first = supervisor.pid("registry")
        os.kill(first, signal.SIGKILL)
        assert again.wait(20)
        assert supervisor.pid("registry") != first
        until(lambda: serving(spec.address))


def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    spec = registry(tmp_path)

    with Supervisor([spec], tmp_path / "logs") as supervisor:
        pid = supervisor.pid("registry")

    assert not psutil.pid_exists(pid)
    assert not serving(spec.address, 0.5)


def test_a_child_with_wrong_settings_is_not_tried_again_and_its_mistakes_are_shown(tmp_path: Path) -> None:
    spec = registry(tmp_path, HEADRACE_REGISTRY_DRAIN_S="-1", HEADRACE_REGISTRY_MAX_CONCURRENT_RPCS="many")

    with pytest.raises(FailedPrecondition) as caught, Supervisor([spec], tmp_path / "logs"):
        pass

    assert "HEADRACE_REGISTRY_DRAIN_S" in str(caught.value)
    assert "HEADRACE_REGISTRY_MAX_CONCURRENT_RPCS" in str(caught.value)


def test_a_supervisor_that_is_killed_takes_its_children_with_it(tmp_path: Path) -> None:
    port = free_port()
    script = (
        "import threading; from pathlib import Path; from headrace.local.plan import Sizes, plan\n"
        "from headrace.local.supervisor import Supervisor\n"
        f"folder = Path({str(tmp_path)!r}); spec = plan(folder, Sizes(), port={port})[0]\n"
        "with Supervisor([spec], folder / 'logs') as supervisor:\n"
        "    print(supervisor.pid('registry'), flush=True); threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()
    assert not serving(join_address("127.0.0.1", port + 1), 0.5)
