"""Our stubs of the Open Inference Protocol live beside those of other clients in one process."""

import subprocess
import sys

import pytest

from tools.generate_stubs import ROOT

OURS = "from headrace.inference.oip.v2 import inference_pb2 as ours, inference_pb2_grpc"
THEIRS = "from tritonclient.grpc import service_pb2 as theirs"

EXCHANGE = """
def fill(pb2):
    request = pb2.ModelInferRequest(model_name="digits", model_version="1", id="r1", raw_input_contents=[b"abcd"])
    image = request.inputs.add(name="image", datatype="FP32", shape=[1, 1])
    image.contents.fp32_contents.append(0.5)
    request.parameters["priority"].int64_param = 7
    return request

def serialized(message):
    return message.SerializeToString(deterministic=True)

assert serialized(fill(ours)) == serialized(fill(theirs))
assert ours.ModelInferRequest.FromString(serialized(fill(theirs))) == fill(ours)
assert theirs.ModelInferRequest.FromString(serialized(fill(ours))) == fill(theirs)
assert ours.ModelInferRequest is not theirs.ModelInferRequest
"""


def run(*statements: str) -> None:
    """Run `statements` in a process of its own: descriptor pools remember what was imported before."""
    script = "\n".join(statements)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_both_stubs_exchange_messages_in_one_process(imports: tuple[str, str]) -> None:
    run(*imports, EXCHANGE)


# What clients newer than the tritonclient of the tests read; checked by hand against that of version 2.73.
NEWER = {
    "InferResponseStatistics",
    "ModelConfig.model_metrics",
    "ModelConfig.runtime",
    "ModelEnsembling.max_inflight_requests",
    "ModelInput.is_non_linear_format_io",
    "ModelMetrics",
    "ModelMetrics.MetricControl",
    "ModelMetrics.MetricControl.HistogramOptions",
    "ModelMetrics.MetricControl.MetricIdentifier",
    "ModelOutput.is_non_linear_format_io",
    "ModelStatistics.ResponseStatsEntry",
    "ModelStatistics.response_stats",
}
# What KServe's clients read, and Triton's do not.
KSERVE = {
    "ModelMetadataResponse.PropertiesEntry",
    "ModelMetadataResponse.properties",
    "RepositoryModelLoadResponse.is_loaded",
    "RepositoryModelLoadResponse.model_name",
    "RepositoryModelUnloadResponse.is_unloaded",
    "RepositoryModelUnloadResponse.model_name",
}

SAME_WIRE = f"""
from tritonclient.grpc import model_config_pb2
from tests.unit.protos.oip_wire import additions, differences

files = theirs.DESCRIPTOR, model_config_pb2.DESCRIPTOR
assert not list(differences(*files)), list(differences(*files))
assert additions(*files) == {NEWER | KSERVE}, additions(*files)
"""


def test_every_message_field_enum_and_rpc_of_tritons_client_is_ours_too() -> None:
    run(OURS, THEIRS, SAME_WIRE)
