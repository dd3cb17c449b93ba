"""NVIDIA's load generator measures this server: it reads metadata, configuration and statistics, and sends what they tell it to.

It is a program in an old wheel of Triton's client (newer ones need a newer C library than many machines have), and wants two
libraries beside it. All are fetched once, into a folder below this environment; where they cannot be had, the tests are skipped.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_inference.rest.serving import serve_http
from tests.services.inference.inference_server import InferenceServer, serve_inference
from tests.unit.inference import onnx_models

WHEELS = ("tritonclient==2.45.0", "nvidia-cuda-runtime-cu12==12.9.79")
PROGRAM = "tritonclient-2.45.0.data/data/bin/perf_analyzer"
LIBRARIES = ("nvidia/cuda_runtime/lib", "usr/lib/x86_64-linux-gnu")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # the first run fetches 16 MB


@pytest.fixture(scope="module")
def folder() -> Path:
    """A folder that holds the program and its libraries."""
    folder = Path(sys.prefix) / "perf_analyzer"
    stamp = folder / "complete"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of this file may run in several processes
        if not stamp.exists():
            _fill(folder)
            stamp.touch()  # last, so that what broke off is begun anew
    return folder


def _fill(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        _fetch(folder)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"perf_analyzer cannot be fetched: {error}")
    (folder / PROGRAM).chmod(0o755)


def _fetch(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--dest", str(folder), *WHEELS], folder)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
    _run(["apt-get", "download", "libb64-0d"], folder)
    (package,) = folder.glob("libb64*.deb")
    _run(["dpkg", "-x", str(package), str(folder)], folder)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, check=True, timeout=120, cwd=folder, capture_output=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    with serve_inference(tmp_path_factory.mktemp("registry")) as served, served.client() as client:
        served.publish("affine", onnx_models.affine(2))
        client.load("affine")
        yield served


@pytest.fixture(scope="module")
def http_address(server: InferenceServer) -> Iterator[str]:
    with serve_http(
        "127.0.0.1:0", grpc_address=server.address, max_connections=64, max_body_bytes=1 << 20
    ) as address:
        yield address


@pytest.mark.parametrize(
    "options",
    [[], ["--streaming"], ["--shared-memory", "system"], ["-b", "4"], ["--async"], ["-i", "http"]],
    ids=["calls", "stream", "shared memory", "batches", "async", "http"],
)
def test_the_load_generator_measures_and_reads_the_statistics(
    folder: Path, server: InferenceServer, http_address: str, options: list[str]
) -> None:
    protocol = [] if "http" in options else ["-i", "grpc"]
    address = http_address if "http" in options else server.address
    # Three windows of 20 requests, whatever they say: this is about what is understood, not about how fast it is.
    windows = [
        "--measurement-mode",
        "count_windows",
        "--measurement-request-count",
        "20",
        "-s",
        "999",
        "-r",
        "3",
    ]
    run = subprocess.run(
        [str(folder / PROGRAM), "-m", "affine", *protocol, "-u", address, *windows, *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"LD_LIBRARY_PATH": os.pathsep.join(str(folder / library) for library in LIBRARIES)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Throughput: " in run.stdout
    assert "Successful request count: " in run.stdout
    assert "compute infer " in run.stdout
