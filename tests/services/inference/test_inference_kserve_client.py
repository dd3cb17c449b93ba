"""KServe's own Python client works against this server.

It cannot be installed beside headrace: it wants an older protobuf and an older psutil. So it gets an environment of its
own below this one's, made once, and runs as a process, as a user's program would.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.inference.tensors import DATATYPES
from headrace_inference.rest.serving import serve_http
from tests.services.inference.inference_server import serve_inference
from tests.unit.inference import onnx_models
from tools.generate_stubs import ROOT

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "kserve-requirements.txt"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first run installs 60 packages


@pytest.fixture(scope="module")
def kserve_python() -> Path:
    """An interpreter that has KServe."""
    folder = Path(sys.prefix) / "kserve"
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != REQUIREMENTS.read_bytes():
        venv.create(folder, clear=True, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run(
            [*pip, "--disable-pip-version-check", "--no-deps", "-r", str(REQUIREMENTS)],
            check=True,
            timeout=600,
        )
        shutil.copy(REQUIREMENTS, stamp)  # last, so that an installation that broke off is begun anew
    return python


@pytest.fixture(scope="module")
def answers(kserve_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What KServe's client got from a server with a model for each datatype."""
    with (
        serve_inference(tmp_path_factory.mktemp("registry")) as server,
        server.client() as client,
        serve_http(
            "127.0.0.1:0", grpc_address=server.address, max_connections=16, max_body_bytes=1 << 20
        ) as http,
    ):
        for datatype in DATATYPES:
            server.publish(datatype.lower(), onnx_models.identity(datatype))
            client.load(datatype.lower())
        server.publish("affine", onnx_models.affine(2))
        client.load("affine")
        run = subprocess.run(
            [str(kserve_python), str(HERE / "kserve_calls.py"), server.address, f"http://{http}"],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"]},  # nothing that points into the environment of the tests
            check=False,
        )
        assert run.returncode == 0, run.stderr
        yield json.loads(run.stdout.splitlines()[-1])


def test_server_and_model_answer_for_themselves(answers: dict[str, Any]) -> None:
    assert (answers["live"], answers["ready"]) == (True, True)
    assert (answers["model_ready"], answers["unknown_ready"]) == (True, False)


def test_an_inference_with_version_and_id(answers: dict[str, Any]) -> None:
    assert answers["affine"] == {
        "outputs": {"scaled": [[2, 2, 2]], "shifted": [[2, 2, 2]]},
        "version": "1",
        "id": "r-7",
    }


@pytest.mark.parametrize("contents", ["raw", "typed"])
def test_every_datatype_passes(answers: dict[str, Any], contents: str) -> None:
    assert len(answers[contents]) >= 12
    for datatype, answer in answers[contents].items():
        expected: list[list[Any]] = [[0, 1], [1, 0]] if datatype != "BYTES" else [["a", "é"], ["", "xy"]]
        assert answer["outputs"] == {"y": expected}, datatype


def test_errors_come_with_their_codes(answers: dict[str, Any]) -> None:
    assert answers["unknown_model"]["code"] == "NOT_FOUND"
    assert answers["wrong_shape"]["code"] == "INVALID_ARGUMENT"
    assert "shape [1, 2], but the model takes [-1, 3]" in answers["wrong_shape"]["details"]


def test_the_client_of_http_works_too(answers: dict[str, Any]) -> None:
    expected = {"scaled": [[2, 4, 6]], "shifted": [[2, 3, 4]]}
    assert answers["http"] == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "json": expected,
        "raw": expected,
    }


@pytest.mark.parametrize("ours_first", [True, False])
def test_kserves_stubs_and_ours_live_in_one_process(kserve_python: Path, ours_first: bool) -> None:
    """Only its generated module is imported: the package itself does not go with our protobuf."""
    (stubs,) = kserve_python.parents[1].glob("lib/python*/site-packages/kserve/protocol/grpc")
    imports = [
        "from headrace.inference.oip.v2 import inference_pb2 as ours",
        "import grpc_predict_v2_pb2 as theirs",
    ]
    statements = [
        *(imports if ours_first else reversed(imports)),
        "sent = theirs.ModelInferRequest(model_name='digits', raw_input_contents=[b'abcd'])",
        "sent.inputs.add(name='x', datatype='FP32', shape=[1]).contents.fp32_contents.append(0.5)",
        "received = ours.ModelInferRequest.FromString(sent.SerializeToString(deterministic=True))",
        "assert received.inputs[0].contents.fp32_contents == [0.5]",
        "assert received.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)",
        "from tests.unit.protos.oip_wire import differences",
        "assert all('.RepositoryModel' in one for one in differences(theirs.DESCRIPTOR))",  # see repository.proto
    ]
    paths = [str(stubs), os.environ.get("PYTHONPATH", "")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", "\n".join(statements)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
