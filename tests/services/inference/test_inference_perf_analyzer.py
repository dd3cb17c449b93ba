"""NVIDIA's load generator measures this server: it reads metadata, configuration and statistics, and sends what they tell it to.

It is a program in an old wheel of Triton's client (newer ones need a newer C library than many machines have), and wants two
libraries beside it: one in a wheel, and Debian's libb64-0d, which must be installed. The wheels are fetched once, into a folder
below this environment; where something cannot be had, the tests are skipped.
"""

import fcntl
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from headrace_inference.rest.serving import serve_http
from tests.services.inference.inference_server import InferenceServer, serve_inference
from tests.unit.inference import onnx_models

WHEELS = ("tritonclient==2.45.0", "nvidia-cuda-runtime-cu12==12.9.79")
PROGRAM = "tritonclient-2.45.0.data/data/bin/perf_analyzer"
LIBRARY = "nvidia/cuda_runtime/lib"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # the first run fetches 16 MB


@pytest.fixture(scope="module")
def folder() -> Path:
    """A folder that holds the program and a library."""
    if find_library("b64") is None:
        pytest.skip("perf_analyzer needs libb64, which is not installed: apt-get install libb64-0d")
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
    subprocess.run(
        [*pip, "--dest", str(folder), *WHEELS], check=True, timeout=120, cwd=folder, capture_output=True
    )
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()


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
        "1000000",  # percent by which windows may differ: the machine may be busy with anything
        "-r",
        "10",
    ]
    run = subprocess.run(
        [str(folder / PROGRAM), "-m", "affine", *protocol, "-u", address, *windows, *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"LD_LIBRARY_PATH": str(folder / LIBRARY)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Throughput: " in run.stdout
    assert "Successful request count: " in run.stdout
    assert "compute infer " in run.stdout
