"""How a model is served, as a configuration of Triton's says it: what is honoured, and what is refused."""

import json
from typing import Any

import pytest

from headrace.errors import FailedPrecondition
from headrace_inference.core.batching import Batching, OnTimeout, QueuePolicy
from headrace_inference.core.config import ModelConfig, PaddingWish, Sample
from headrace_inference.core.signature import Signature, Tensor, check_declared
from headrace_inference.wire.declared import read_config

DEFAULTS = Batching(workers=1, max_size=32, max_waiting=128)
X = {"name": "x", "data_type": "TYPE_FP32", "dims": [3]}


def read(config: dict[str, Any]) -> ModelConfig:
    return read_config(json.dumps(config).encode(), "config.json", DEFAULTS)


def test_what_is_left_open_is_the_servers_default() -> None:
    assert read({}) == ModelConfig(DEFAULTS)


def test_batching_instances_and_queues() -> None:
    config = read(
        {
            "name": "digits",
            "backend": "onnxruntime",
            "max_batch_size": 8,
            "instance_group": [{"count": 2, "kind": "KIND_CPU"}, {"count": 1}],
            "dynamic_batching": {"default_queue_policy": {"max_queue_size": 16}},
            "parameters": {"intra_op_thread_count": {"string_value": "4"}},
            "response_cache": {"enable": True},
        }
    )
    assert (config.batching.workers, config.batching.max_size, config.batching.max_waiting) == (3, 8, 16)
    assert (config.threads, config.keeps_answers) == (4, True)


def test_queues_with_delays_priorities_and_policies() -> None:
    impatient = {
        "timeout_action": "DELAY",
        "default_timeout_microseconds": 5000,
        "allow_timeout_override": True,
    }
    batching = read(
        {
            "max_batch_size": 16,
            "dynamic_batching": {
                "preferred_batch_size": [8, 4],
                "max_queue_delay_microseconds": 200,
                "priority_levels": 3,
                "default_priority_level": 2,
                "default_queue_policy": {"max_queue_size": 64},
                "priority_queue_policy": {"1": impatient},
            },
        }
    ).batching
    assert (batching.preferred_sizes, batching.max_delay_s) == ((4, 8), 0.0002)
    assert (batching.levels, batching.default_level, batching.max_waiting) == (3, 2, 64)
    assert batching.policies == {
        1: QueuePolicy(0, 0.005, callers_may_shorten=True, on_timeout=OnTimeout.DELAY)
    }


def test_a_length_that_requests_are_padded_to() -> None:
    parameters = {"padding_axis": "tokens", "padding_values": '{"ids": 1}', "padding_buckets": "[16, 64]"}
    config = read({"parameters": {name: {"string_value": text} for name, text in parameters.items()}})
    assert config.padding == PaddingWish("tokens", {"ids": 1}, (16, 64))


def test_the_text_form_is_read_as_well() -> None:
    text = b'max_batch_size: 4\ninput { name: "x" data_type: TYPE_STRING dims: [ -1 ] }\n'
    config = read_config(text, "config.pbtxt", DEFAULTS)
    assert config.batching.max_size == 4
    assert config.signature == Signature((Tensor("x", "BYTES", ("batch", "")),), ())


def test_dimensions_leave_the_batch_out_where_there_is_one() -> None:
    batched, alone = read({"max_batch_size": 4, "input": [X]}), read({"input": [X]})
    assert batched.signature is not None
    assert alone.signature is not None
    assert (batched.signature.inputs[0].shape, alone.signature.inputs[0].shape) == ((-1, 3), (3,))


def test_warm_up_samples() -> None:
    inputs = {
        "x": {"dims": [16], "data_type": "TYPE_FP32", "zero_data": True},
        "y": {"dims": [2], "random_data": True},
    }
    config = read({"model_warmup": [{"name": "one", "batch_size": 4, "count": 3, "inputs": inputs}]})
    assert config.warm_up == (Sample(4, {"x": (16,), "y": (2,)}, frozenset({"x"}), 3),)


def test_accelerators_become_providers_with_their_options() -> None:
    tensorrt = {"name": "tensorrt", "parameters": {"trt_fp16_enable": "1"}}
    config = read(
        {
            "instance_group": [{"kind": "KIND_GPU", "gpus": [1]}],
            "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [tensorrt]}},
        }
    )
    assert config.providers == (
        ("TensorrtExecutionProvider", {"trt_fp16_enable": "1"}),
        ("CUDAExecutionProvider", {"device_id": "1"}),
    )


def test_a_python_function_with_what_makes_it() -> None:
    parameters = {
        "function": {"string_value": "package.module:Model"},
        "factor": {"string_value": "2.5"},
        "name": {"string_value": "a b"},
    }
    config = read({"backend": "python", "parameters": parameters, "input": [X], "output": [X]})
    assert (config.function, config.function_config) == (
        "package.module:Model",
        {"factor": 2.5, "name": "a b"},
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sequence_batching": {"oldest": {}}}, "sequence_batching is set, and this server does not do it"),
        ({"dynamic_batching": {"priority_levels": 2, "default_priority_level": 3}}, "default_priority_level is 3"),
        ({"dynamic_batching": {"preferred_batch_size": [64]}}, "preferred_sizes is 64; it must be 1 to 32"),
        ({"parameters": {"padding_axis": {"string_value": "[1]"}}}, "the parameters of padding are"),
        ({"dynamic_batching": {"preserve_ordering": True}}, r"dynamic_batching\.preserve_ordering is set"),
        ({"input": [{**X, "allow_ragged_batch": True}]}, r"input\.allow_ragged_batch is set"),
        ({"parameters": {"thread": {"string_value": "4"}}}, r"parameters\.thread is not known; known are threads"),
        ({"parameters": {"threads": {"string_value": "many"}}}, "is 'many'; give a number from 1 to 256"),
        ({"max_batch_size": -1}, "max_batch_size is -1"),
        ({"max_batch_size": 1 << 30}, "give 1 to 4096"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 1 << 60}}, "give 60 seconds at most"),
        ({"instance_group": [{"count": 200}, {"count": 200}]}, "counts 400 in all; give 256 at most"),
        ({"model_warmup": [{"batch_size": 1_000_000_000}]}, "makes 1000000000 elements"),
        ({"model_warmup": [{"count": 1_000_000}]}, "runs 1000000 times"),
        ({"model_warmup": [{"inputs": {"x": {"dims": [-3], "zero_data": True}}}]}, r"has dims \[-3\]"),
        ({"model_warmup": [{"inputs": {"x": {"dims": [1 << 40], "zero_data": True}}}]}, "elements and runs"),
        ({"input": [{"name": "x", "dims": [3]}]}, "tensor 'x' has no data_type"),
        ({"input": [{**X, "dims": [-2]}]}, "tensor 'x' has a dimension of -2"),
        ({"model_transaction_policy": {"decoupled": True}}, "only a model of backend 'python' gives any number of answers"),
        ({"backend": "python"}, "has the parameter 'function'"),
        ({"instance_group": [{"kind": "KIND_GPU", "gpus": [0, 1]}]}, "a model is on one"),
        ({"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "x"}]}}}, "accelerator 'x' is not known"),
        ({"model_warmup": [{"inputs": {"x": {"input_data_file": "x.bin"}}}]}, "input 'x' names a file"),
        ({"no_such_field": 1}, "is no configuration of a model"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_or_is_not_done_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        read(config)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b"[]", b" " * (1 << 21), b"[" * 100_000],
    ids=["empty", "cut", "bytes", "list", "large", "deep"],
)
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(
        FailedPrecondition, match=r"is no configuration of a model|a configuration has at most"
    ):
        read_config(data, "config.json", DEFAULTS)


@pytest.mark.parametrize(
    ("declared", "agrees"),
    [
        (Tensor("x", "FP32", ("n", 3)), True),
        (Tensor("x", "FP32", (8, "")), True),
        (Tensor("x", "FP64", ("n", 3)), False),
        (Tensor("x", "FP32", ("n", 4)), False),
        (Tensor("x", "FP32", (3,)), False),
        (Tensor("y", "FP32", ("n", 3)), False),
    ],
)
def test_a_model_is_what_its_configuration_declares(declared: Tensor, agrees: bool) -> None:
    actual = Signature((Tensor("x", "FP32", ("batch", 3)),), ())
    if agrees:
        check_declared(Signature((declared,), ()), actual)
    else:
        with pytest.raises(FailedPrecondition, match=f"the configuration declares input '{declared.name}'"):
            check_declared(Signature((declared,), ()), actual)
