# length: one table of requests, with the few functions that make them
"""What Triton's clients use beside the Open Inference Protocol, in one table of requests and what becomes of them."""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from headrace.inference.messages import infer_request, outputs_of
from headrace.inference.oip.v2 import (
    inference_pb2 as pb,
)
from headrace.inference.oip.v2 import (
    model_config_pb2,
    settings_pb2,
    shared_memory_pb2,
    statistics_pb2,
)
from headrace.inference.tensors import Array
from headrace.rpc.authorization import Principal, Role
from tests.services.inference.inference_server import InferenceServer, serve_inference
from tests.unit.inference import onnx_models

ROW = np.array([[1, 5, 2]], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    """One server for all tests here: "affine" in version 2, "text" and "half" that give what they take, "alone" unbatched."""
    with serve_inference(tmp_path_factory.mktemp("registry")) as served, served.client() as client:
        served.publish("affine", onnx_models.affine(1))
        served.publish("affine", onnx_models.affine(2))
        served.publish("text", onnx_models.identity("BYTES"))
        served.publish("half", onnx_models.identity("BF16"))
        served.publish("alone", onnx_models.affine(2, first=1))
        for model in ("affine", "text", "half", "alone"):
            client.load(model)
        yield served


@pytest.fixture
def memory(server: InferenceServer, request: pytest.FixtureRequest) -> Iterator["Memory"]:
    """A memory object of 4096 bytes, registered as "region"."""
    name = f"headrace-test-{os.getpid()}-{abs(hash(request.node.nodeid))}"
    path = Path("/dev/shm") / name
    path.write_bytes(bytes(4096))
    register = shared_memory_pb2.SystemSharedMemoryRegisterRequest(
        name="region", key=f"/{name}", offset=96, byte_size=4000
    )
    try:
        server.stub.SystemSharedMemoryRegister(register)
        yield Memory(path, f"/{name}")
    finally:
        server.stub.SystemSharedMemoryUnregister(shared_memory_pb2.SystemSharedMemoryUnregisterRequest())
        path.unlink()


@dataclass
class Memory:
    path: Path
    key: str

    def put(self, offset: int, data: bytes) -> None:
        """Write into the region, which begins at byte 96 of the object."""
        with self.path.open("r+b") as file:
            file.seek(96 + offset)
            file.write(data)

    def get(self, offset: int, size: int) -> bytes:
        return self.path.read_bytes()[96 + offset : 96 + offset + size]


def asked(model: str = "affine", x: Array = ROW, **options: Any) -> pb.ModelInferRequest:
    return infer_request(model, {"x": x}, **options)


def with_parameter(value: Any, name: str) -> pb.ModelInferRequest:
    request = asked()
    kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
    setattr(request.parameters[name], kind, value)
    return request


def in_memory(region: str = "region", offset: int = 0, size: int = 12) -> pb.ModelInferRequest:
    """Ask with the input in shared memory."""
    request = pb.ModelInferRequest(model_name="affine")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    place(tensor, region, offset, size)
    return request


def place(tensor: Any, region: str, offset: int, size: int) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def into_memory(size: int = 12, offset: int = 0, region: str = "region") -> pb.ModelInferRequest:
    """Ask for an output in shared memory."""
    request = asked(outputs=["scaled"])
    place(request.outputs[0], region, offset, size)
    return request


def classes(
    count: int, *, model: str = "affine", output: str = "scaled", x: Array = ROW
) -> pb.ModelInferRequest:
    request = asked(model, x, outputs=[output])
    request.outputs[0].parameters["classification"].int64_param = count
    return request


def changed(
    request: pb.ModelInferRequest, change: Callable[[pb.ModelInferRequest], object]
) -> pb.ModelInferRequest:
    change(request)
    return request


OK = grpc.StatusCode.OK
BAD = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND

CHECKS: dict[str, tuple[pb.ModelInferRequest, grpc.StatusCode, str]] = {
    "plain": (asked(), OK, ""),
    "version": (asked(version="2"), OK, ""),
    "all outputs in another order": (asked(outputs=["shifted", "scaled"]), OK, ""),
    "no rows": (asked(x=ROW[:0]), OK, ""),
    "unknown model": (asked("no"), MISSING, "model 'no' is not loaded"),
    "unknown version": (asked(version="1"), MISSING, "version '1' of model 'affine'"),
    "version that is no number": (asked(version="latest"), MISSING, "version 'latest'"),
    "unknown input": (infer_request("affine", {"y": ROW}), BAD, "no input 'y'"),
    "missing input": (pb.ModelInferRequest(model_name="affine"), BAD, "input 'x' is missing"),
    "wrong datatype": (asked(x=ROW.astype(np.int32)), BAD, "'x' is INT32, but the model takes FP32"),
    "wrong rank": (asked(x=ROW[0]), BAD, "shape [3], but the model takes [-1, 3]"),
    "wrong size": (asked(x=ROW[:, :2]), BAD, "shape [1, 2], but the model takes [-1, 3]"),
    "wrong fixed batch": (asked("alone", np.ones((2, 3), np.float32)), BAD, "but the model takes [1, 3]"),
    "unknown output": (asked(outputs=["no"]), BAD, "no output 'no'"),
    "output twice": (asked(outputs=["scaled", "scaled"]), BAD, "output 'scaled' is wished twice"),
    "no text": (asked("text", np.array([[b"\xff"]], np.object_)), BAD, "no UTF-8"),
    "custom parameter": (with_parameter("blue", "colour"), OK, ""),
    "double parameter": (with_parameter(0.5, "temperature"), OK, ""),
    "reserved parameter": (with_parameter(True, "triton_magic"), BAD, "'triton_magic' is not known"),
    "final response asked for": (with_parameter(True, "triton_enable_empty_final_response"), OK, ""),
    "priority": (with_parameter(1, "priority"), OK, ""),
    "negative priority": (with_parameter(-1, "priority"), BAD, "'priority' is -1"),
    "priority in words": (with_parameter("high", "priority"), BAD, "'priority' is a string_param"),
    "timeout": (with_parameter(10_000_000, "timeout"), OK, ""),
    "no timeout": (with_parameter(0, "timeout"), OK, ""),
    "timeout in words": (with_parameter("soon", "timeout"), BAD, "must be a int64_param or uint64_param"),
    "no sequence": (with_parameter(0, "sequence_id"), OK, ""),
    "sequence": (with_parameter(7, "sequence_id"), BAD, "'affine' keeps nothing from one request to the next"),
    "named sequence": (with_parameter("s", "sequence_id"), BAD, "leave 'sequence_id' out"),
    "start of no sequence": (with_parameter(True, "sequence_start"), BAD, "but no 'sequence_id'"),
    "flag that is a number": (with_parameter(1, "sequence_end"), BAD, "'sequence_end' is a int64_param"),
    "classes": (classes(2), OK, ""),
    "classes of text": (classes(1, model="text", output="y", x=np.array([[b"a"]], np.object_)), BAD, "needs numbers"),
    "classes below none": (classes(-1), BAD, "'classification' is -1"),
    "classes into shared memory": (
        changed(into_memory(), lambda ask: ask.outputs[0].parameters["classification"].MergeFrom(pb.InferParameter(int64_param=1))),
        BAD, "both 'classification' and 'shared_memory_region'",
    ),
    "input in shared memory": (in_memory(), OK, ""),
    "input in an unknown region": (in_memory("no"), MISSING, "region 'no' is not registered"),
    "input beyond the region": (in_memory(offset=3990), BAD, "do not lie within shared memory region"),
    "input at an impossible place": (in_memory(offset=(1 << 63) - 1), BAD, "do not lie within"),
    "input at a negative place": (in_memory(offset=-1), BAD, "'shared_memory_offset' is -1"),
    "input of another size": (in_memory(size=8), BAD, "8 bytes of contents, but FP32 of shape [1, 3] has 12"),
    "input of no size": (
        changed(in_memory(), lambda ask: ask.inputs[0].parameters.pop("shared_memory_byte_size")),
        BAD, "'shared_memory_byte_size' is missing",
    ),
    "raw contents for an input in shared memory": (
        changed(in_memory(), lambda ask: ask.raw_input_contents.append(b"")),
        BAD, "1 entries for 1 inputs, 1 of them in shared memory",
    ),
    "output into shared memory": (into_memory(), OK, ""),
    "output into too little": (into_memory(size=11), BAD, "has 12 bytes, but 'shared_memory_byte_size' is 11"),
    "output into an unknown region": (into_memory(region="no"), MISSING, "region 'no' is not registered"),
    "output beyond the region": (into_memory(offset=3990), BAD, "do not lie within shared memory region"),
}  # fmt: skip


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("check", CHECKS)
def test_every_request_is_answered_or_refused_with_its_code(server: InferenceServer, check: str) -> None:
    request, code, message = CHECKS[check]
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        answer, call = infer.with_call(request, timeout=20) if code is OK else refused(infer, request)
    assert call.code() is code
    assert message in call.details()
    if code is OK:
        assert answer.model_name == "affine"


def refused(infer: Any, request: pb.ModelInferRequest) -> tuple[Any, Any]:
    with pytest.raises(grpc.RpcError) as raised:
        infer(request, timeout=20)
    return None, raised.value


def test_a_request_that_is_refused_harms_no_neighbour(server: InferenceServer) -> None:
    calls = [
        server.stub.ModelInfer.future(CHECKS[check][0])
        for check in ("plain", "no text", "wrong size", "plain")
    ]
    assert [call.exception() is None for call in calls] == [True, False, False, True]


def test_tensors_go_in_and_out_by_shared_memory(server: InferenceServer, memory: Memory) -> None:
    memory.put(100, ROW.tobytes())
    request = in_memory(offset=100)
    for position, name in enumerate(("shifted", "scaled")):
        place(request.outputs.add(name=name), "region", 200 + 100 * position, 50)
    response = server.stub.ModelInfer(request)
    assert memory.get(200, 12) == (ROW + 1).tobytes()
    assert memory.get(300, 12) == (ROW * 2).tobytes()
    assert outputs_of(response) == {}
    assert list(response.raw_output_contents) == [b"", b""]
    assert response.outputs[1].parameters["shared_memory_region"].string_param == "region"
    assert response.outputs[1].parameters["shared_memory_byte_size"].int64_param == 12
    assert response.outputs[1].parameters["shared_memory_offset"].int64_param == 300


def test_one_tensor_in_shared_memory_and_one_in_the_message(server: InferenceServer, memory: Memory) -> None:
    request = into_memory()
    request.outputs.add(name="shifted")
    response = server.stub.ModelInfer(request)
    assert memory.get(0, 12) == (ROW * 2).tobytes()
    assert outputs_of(response)["shifted"].tolist() == (ROW + 1).tolist()


def test_texts_and_half_precision_go_by_shared_memory_too(server: InferenceServer, memory: Memory) -> None:
    text = b"".join(struct.pack("<I", len(one)) + one for one in (b"a", b"", "é".encode()))
    half = np.array([[0.5, -2]], ml_dtypes.bfloat16)
    memory.put(0, text)
    memory.put(500, half.tobytes())
    for model, datatype, shape, offset, data in (
        ("text", "BYTES", (3, 1), 0, text),
        ("half", "BF16", (1, 2), 500, half.tobytes()),
    ):
        request = pb.ModelInferRequest(model_name=model)
        place(request.inputs.add(name="x", datatype=datatype, shape=shape), "region", offset, len(data))
        place(request.outputs.add(name="y"), "region", 1000, 100)
        server.stub.ModelInfer(request)
        assert memory.get(1000, len(data)) == data


def test_regions_are_listed_and_forgotten(server: InferenceServer, memory: Memory) -> None:
    ask = shared_memory_pb2.SystemSharedMemoryStatusRequest
    regions = server.stub.SystemSharedMemoryStatus(ask()).regions
    assert list(regions) == ["region"]
    region = regions["region"]
    assert (region.name, region.key, region.offset, region.byte_size) == ("region", memory.key, 96, 4000)
    forget = shared_memory_pb2.SystemSharedMemoryUnregisterRequest(name="region")
    server.stub.SystemSharedMemoryUnregister(forget)
    assert not server.stub.SystemSharedMemoryStatus(ask()).regions


def test_memory_of_gpus_is_refused_where_there_is_none_and_forgetting_it_is_not(
    server: InferenceServer,
) -> None:
    assert not server.stub.CudaSharedMemoryStatus(shared_memory_pb2.CudaSharedMemoryStatusRequest()).regions
    server.stub.CudaSharedMemoryUnregister(shared_memory_pb2.CudaSharedMemoryUnregisterRequest())
    register = shared_memory_pb2.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"h", byte_size=1)
    with pytest.raises(Exception, match="reads no memory of GPUs"):
        server.stub.CudaSharedMemoryRegister(register)


def test_classes_are_texts_of_value_and_index(server: InferenceServer) -> None:
    response = server.stub.ModelInfer(classes(2, x=np.array([[1, 5, 2], [9, 8, 7]], np.float32)))
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 2])
    assert outputs_of(response)["scaled"].tolist() == [
        [b"10.000000:1", b"4.000000:2"],
        [b"18.000000:0", b"16.000000:1"],
    ]


def test_a_configuration_tells_what_is_served_and_how(server: InferenceServer) -> None:
    config = server.stub.ModelConfig(model_config_pb2.ModelConfigRequest(name="affine")).config
    assert (config.name, config.platform, config.backend) == ("affine", "onnxruntime_onnx", "onnxruntime")
    assert (config.max_batch_size, list(config.version_policy.specific.versions)) == (32, [2])
    (x,) = config.input
    assert (x.name, x.data_type, list(x.dims)) == ("x", model_config_pb2.TYPE_FP32, [3])
    assert [output.name for output in config.output] == ["scaled", "shifted"]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 128
    assert config.instance_group[0].count == 1
    assert config.default_model_filename == "0.onnx"
    alone = server.stub.ModelConfig(model_config_pb2.ModelConfigRequest(name="alone")).config
    assert (alone.max_batch_size, list(alone.input[0].dims)) == (0, [1, 3])
    text = server.stub.ModelConfig(model_config_pb2.ModelConfigRequest(name="text")).config
    assert text.input[0].data_type == model_config_pb2.TYPE_STRING


def test_statistics_count_requests_rows_and_batches(server: InferenceServer) -> None:
    def counted() -> statistics_pb2.ModelStatistics:
        ask = statistics_pb2.ModelStatisticsRequest(name="alone")
        (found,) = server.stub.ModelStatistics(ask).model_stats
        return found

    before = counted()
    server.stub.ModelInfer(asked("alone"))
    with pytest.raises(Exception, match="but the model takes"):
        server.stub.ModelInfer(asked("alone", ROW[:, :2]))
    after = counted()
    assert (after.name, after.version) == ("alone", "1")
    assert after.inference_count == before.inference_count + 1
    assert after.execution_count == before.execution_count + 1
    assert after.last_inference > before.last_inference
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert [batch.batch_size for batch in after.batch_stats] == [1]
    every = server.stub.ModelStatistics(statistics_pb2.ModelStatisticsRequest()).model_stats
    assert [one.name for one in every] == ["affine", "alone", "half", "text"]


def test_traces_are_switched_on_for_one_model_and_off_again(server: InferenceServer) -> None:
    def change(**settings: list[str]) -> dict[str, list[str]]:
        request = settings_pb2.TraceSettingRequest(model_name="affine")
        for name, values in settings.items():
            request.settings[name].value.extend(values)
        answer = server.stub.TraceSetting(request)
        return {name: list(value.value) for name, value in answer.settings.items()}

    assert change(trace_level=["TIMESTAMPS"], trace_rate=["1"])["trace_level"] == ["TIMESTAMPS"]
    server.stub.ModelInfer(asked())
    assert change(trace_level=[])["trace_level"] == ["OFF"]


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        (
            "TraceSetting",
            settings_pb2.TraceSettingRequest(
                settings={"trace_rate": settings_pb2.TraceSettingRequest.SettingValue(value=["1"])}
            ),
        ),
        (
            "LogSettings",
            settings_pb2.LogSettingsRequest(
                settings={"log_info": settings_pb2.LogSettingsRequest.SettingValue(bool_param=False)}
            ),
        ),
    ],
)
def test_an_editor_reads_the_settings_of_the_server_and_only_an_admin_changes_them(
    tmp_path: Path, rpc: str, request_: Any
) -> None:
    editor = Principal("ann", "default", frozenset({Role.EDITOR}))
    with serve_inference(tmp_path, authenticate=lambda _: editor) as served:
        assert getattr(served.stub, rpc)(type(request_)()).settings
        with pytest.raises(Exception, match="ann lacks the role ADMIN"):
            getattr(served.stub, rpc)(request_)
