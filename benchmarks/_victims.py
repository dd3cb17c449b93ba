"""A parameter process that is killed, and started again with the folder it had."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from headrace.parameters.client import StoresClient
from headrace.parameters.operation import Operation
from headrace.parameters.v1 import stores_pb2
from headrace.testing import free_port

STORE = "projects/default/stores/kills"
START_S = 60.0


class Victim:
    """One parameter process, at the same address each time it is started."""

    def __init__(self, folder: Path, *, snapshot_every: int) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = folder / "log"
        settings = {
            "ADDRESS": self.address,
            "METRICS_ADDRESS": "",
            "LOG_FORMAT": "json",
            "DATA_DIR": str(folder / "stores"),
            "SNAPSHOT_LOG_PUSHES": str(snapshot_every),
        }
        self._environment = os.environ | {
            f"HEADRACE_PARAMETERS_{key}": value for key, value in settings.items()
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is not ready yet when this returns."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace_parameters"], env=self._environment, stderr=log
            )

    def prepare(self) -> None:
        """Wait until it may be killed with nothing lost: at any time."""

    def kill(self) -> None:
        """End it without a word."""
        if self._process:
            self._process.kill()
            self._process.wait()

    @property
    def processor_s(self) -> float:
        """Processor time of the running process."""
        assert self._process
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def begin(self, request: stores_pb2.CreateStoreRequest) -> None:
        """Start it and make a store in it."""
        self.start()
        self.create(request)

    def create(self, request: stores_pb2.CreateStoreRequest) -> None:
        """Make a store in it, once it serves."""
        with StoresClient(self.address) as stores:
            Operation(START_S).attempt(lambda: stores.create(request))

    def end(self) -> None:
        """End it for good."""
        self.kill()
