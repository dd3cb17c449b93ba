"""Our stubs of the Open Inference Protocol live beside those of other clients in one process."""

import subprocess
import sys

import pytest

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
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_both_stubs_exchange_messages_in_one_process(imports: tuple[str, str]) -> None:
    run(*imports, EXCHANGE)


SAME_WIRE = """
from google.protobuf.descriptor import Descriptor

def wire(field):
    return field.name, field.number, field.type, field.is_repeated

def differences(mine: Descriptor, other: Descriptor):
    for field in mine.fields:
        rivals = (other.fields_by_name.get(field.name), other.fields_by_number.get(field.number))
        yield from (f"{field.full_name} is {wire(rival)} there" for rival in rivals if rival and wire(rival) != wire(field))
    for nested in mine.nested_types:
        if nested.name in other.nested_types_by_name:
            yield from differences(nested, other.nested_types_by_name[nested.name])

for name, message in ours.DESCRIPTOR.message_types_by_name.items():
    assert not list(differences(message, theirs.DESCRIPTOR.message_types_by_name[name])), name

service = theirs.DESCRIPTOR.services_by_name["GRPCInferenceService"]
for method in ours.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
    twin = service.methods_by_name[method.name]
    assert (method.input_type.full_name, method.output_type.full_name) == (
        twin.input_type.full_name, twin.output_type.full_name), method.name
"""


def test_every_name_number_and_type_is_the_one_other_clients_use() -> None:
    """What only one side has is left out: the protocol lets both add fields."""
    run(OURS, THEIRS, SAME_WIRE)
