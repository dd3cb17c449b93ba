"""The README's commands run as they are written, in their order, against a platform started by its own `headrace up`."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from headrace.rpc.healthcheck import serving
from headrace.testing import free_port
from headrace.testing.reflection import ReflectionClient, parse_grpcurl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(?P<skip><!-- not run: .+? -->\n)?```(?P<language>\w+)\n(?P<text>.+?)```", re.DOTALL)
DEFAULT_PORTS = (8470, 8471, 8472)
START_S = 90


@dataclass
class Reader:
    """Somebody who follows the README in `folder`; ports are moved to free ones, so that tests disturb nobody."""

    folder: Path
    port: int
    platform: subprocess.Popen[str] | None = None

    def follow(self, block: re.Match[str]) -> None:
        """Do what one block says."""
        text = self._moved(block["text"])
        if block["language"] == "bash":
            for line in text.splitlines():
                self._command(line.partition("  #")[0].strip())
        elif found := re.match(r"# (\w+\.py)\n", text):
            (self.folder / found[1]).write_text(text)
        elif block["language"] == "python":
            self._run([sys.executable, "-c", text])

    def _moved(self, text: str) -> str:
        for offset, default in enumerate(DEFAULT_PORTS):
            text = text.replace(f"127.0.0.1:{default}", f"127.0.0.1:{self.port + offset}")
        return text

    def _command(self, line: str) -> None:
        words = shlex.split(line)
        if words == ["headrace", "up"]:
            self._start([*words, "--port", str(self.port)])
        elif words and words[0] == "grpcurl":
            self._grpcurl(words[1:])
        elif words:
            self._run(words)

    def _start(self, words: list[str]) -> None:
        self.platform = subprocess.Popen(words, cwd=self.folder, env=self._environment(), text=True)
        pause = threading.Event()
        for port in range(self.port, self.port + 3):
            while not serving(f"127.0.0.1:{port}", 1.0):
                assert self.platform.poll() is None, "headrace up ended"
                pause.wait(0.1)  # bounded by the test's own timeout: no event crosses from that process

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{shlex.join(words)} printed nothing"

    def _grpcurl(self, arguments: list[str]) -> None:
        address, method, requests = parse_grpcurl(arguments)
        with ReflectionClient(address) as client:
            assert client.services() if method == "list" else client.call(method, *requests)[0]

    def _environment(self) -> dict[str, str]:
        own_programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": own_programs, "HEADRACE_ADDRESS": f"127.0.0.1:{self.port}"}


def blocks() -> list[re.Match[str]]:
    found = [block for block in BLOCK.finditer(README.read_text()) if block["language"] != "text"]
    assert len(found) >= 7
    return [block for block in found if not block["skip"]]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, _three_free_ports())
    yield reader
    if reader.platform is not None:
        children = psutil.Process(reader.platform.pid).children(recursive=True)
        reader.platform.send_signal(signal.SIGINT)
        assert reader.platform.wait(30) in (0, 130)
        assert not [child for child in children if child.is_running()], "Ctrl-C left processes behind"


def test_every_command_of_the_readme_works_as_written(reader: Reader) -> None:
    for block in blocks():
        reader.follow(block)

    assert reader.platform is not None


def test_every_file_and_folder_the_readme_names_exists() -> None:
    text = README.read_text()
    named = re.findall(r"`((?:tests|tools|docs|benchmarks|examples)/[\w/.-]+)`", text) + re.findall(
        r"\]\(([\w/.-]+)\)", text
    )

    assert named
    assert [path for path in named if not (README.parent / path).exists()] == []


def _three_free_ports() -> int:
    """Return the first of three ports in a row that nothing listens on now."""
    return next(port for port in (free_port() for _ in range(1000)) if port < 65_533)
