"""The registry as a process: how it starts, dies and comes back."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import Unavailable
from headrace.registry.client import RegistryClient
from headrace.registry.transfer import Patience
from headrace.registry.v1 import models_pb2
from headrace.rpc.channel import open_channel
from headrace.testing import free_port


class RegistryProcess:
    """`python -m headrace_registry` on one address and one data folder, again and again."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._address_file = folder / "address"
        self._process: subprocess.Popen[bytes] | None = None
        self.environ = {
            **os.environ,
            "HEADRACE_REGISTRY_ADDRESS": self.address,
            "HEADRACE_REGISTRY_METRICS_ADDRESS": "",
            "HEADRACE_REGISTRY_ADDRESS_FILE": str(self._address_file),
            "HEADRACE_REGISTRY_DATA_DIR": str(folder / "data"),
            **settings,
        }

    def start(self) -> None:
        """Start and wait until it serves."""
        self._address_file.unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, "-m", "headrace_registry"], env=self.environ)
        pause = threading.Event()
        while not self._address_file.exists():
            assert self._process.poll() is None, "the registry ended before it served"
            pause.wait(0.02)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        assert self._process
        self._process.send_signal(number)
        return self._process.wait(30)

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self.end(signal.SIGKILL)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    with closing(RegistryProcess(tmp_path)) as process:
        process.start()
        yield process


def test_an_upload_outlives_a_killed_registry(registry: RegistryProcess, tmp_path: Path) -> None:
    """The client is in the middle of a file when the process dies, and goes on when it is back."""
    data = os.urandom(48 << 20)
    (tmp_path / "file").write_bytes(data)
    part = tmp_path / "data" / "artifacts" / "uploads" / f"default-{hashlib.sha256(data).hexdigest()}.part"
    sent: list[int] = []
    kept = 0

    def kill_once(done: int, total: int) -> None:
        nonlocal kept
        sent.append(done)
        if not kept and part.exists() and part.stat().st_size > 4 << 20:
            registry.end(signal.SIGKILL)
            kept = part.stat().st_size
            sent.clear()
            registry.start()

    with open_channel(registry.address) as channel:
        client = RegistryClient(channel)
        name = client.upload_file("default", tmp_path / "file", kill_once)

        assert 0 < kept < len(data)
        assert min(sent) >= kept  # nothing that was kept is sent again
        assert client.download_bytes(name) == data
    assert not part.exists()


def test_what_was_acknowledged_is_there_after_a_kill(registry: RegistryProcess) -> None:
    model = "projects/default/models/digits"
    with open_channel(registry.address) as channel:
        client = RegistryClient(channel)
        artifact = client.upload_bytes("default", b"weights")
        file = models_pb2.File(path="model.onnx", artifact=artifact, role=models_pb2.FILE_ROLE_ONNX)
        made = client.create_version(model, models_pb2.Version(files=[file]), request_id="once")
        client.set_alias(model, "stable", made.name)

        registry.end(signal.SIGKILL)
        back = threading.Timer(2, registry.start)  # longer than gRPC's own retries last
        back.start()

        assert client.get_version(f"{model}@stable") == made
        back.join()
        assert client.create_version(model, models_pb2.Version(files=[file]), request_id="once") == made
        assert client.download_bytes(artifact) == b"weights"


def test_a_registry_that_stays_away_is_one_clear_error(registry: RegistryProcess) -> None:
    registry.end(signal.SIGKILL)
    with open_channel(registry.address) as channel:
        client = RegistryClient(channel, patience=Patience(stalled_s=0.5))
        for call in (
            lambda: client.get_model("projects/default/models/digits"),
            lambda: client.upload_bytes("default", b"weights"),
            lambda: client.download_bytes(f"projects/default/artifacts/{'a' * 64}"),
        ):
            with pytest.raises(Unavailable, match=f"cannot reach {registry.address}"):
                call()


def test_sigterm_ends_it_in_good_order(registry: RegistryProcess) -> None:
    assert registry.end(signal.SIGTERM) == 0
    assert not (registry.folder / "data" / "registry.db-wal").exists()  # all of it is in the database


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"HEADRACE_REGISTRY_DATABASE": "mysql://there"}, 1, "neither sqlite"),
        ({"HEADRACE_REGISTRY_DATA_DIR": "/dev/null/there"}, 1, "cannot write to /dev/null/there"),
        ({"HEADRACE_REGISTRY_MAX_ARTIFACT_BYTES": "0", "HEADRACE_REGISTRY_DRAIN_S": "-1"}, 2, "DRAIN_S"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_and_a_status(
    tmp_path: Path, settings: dict[str, str], status: int, words: str
) -> None:
    environ = RegistryProcess(tmp_path, **settings).environ
    command = [sys.executable, "-m", "headrace_registry"]
    ended = subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=60)

    assert ended.returncode == status
    assert words in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
