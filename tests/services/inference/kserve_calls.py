"""Calls a server with KServe's InferenceGRPCClient and prints what came as JSON; its own interpreter runs it.

Args: the server's address, and its URL over HTTP.
"""

import asyncio
import json
import sys
from typing import Any

import grpc
import numpy as np
from kserve import (  # type: ignore[import-not-found] # lives in an environment of its own
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

RAW_DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
TYPED_DATATYPES = [datatype for datatype in RAW_DATATYPES if datatype != "FP16"]


def example(datatype: str) -> Any:
    if datatype == "BYTES":
        return np.array([[b"a", "é".encode()], [b"", b"xy"]], np.object_)
    return np.array([[0, 1], [1, 0]]).astype(RAW_DATATYPES[datatype])


async def infer(client: Any, model: str, x: Any, datatype: str = "FP32", **options: Any) -> dict[str, Any]:
    """Send an array in raw contents, or a flat list in typed contents."""
    tensor = InferInput("x", list(x.shape), datatype)
    if options.pop("typed", False):
        tensor = InferInput("x", list(x.shape), datatype, data=x.ravel().tolist())
    else:
        tensor.set_data_from_numpy(x, binary_data=True)
    response = await client.infer(InferRequest(model, [tensor], **options))
    outputs = {output.name: output.as_numpy().tolist() for output in response.outputs}
    return {"outputs": outputs, "version": response.model_version, "id": response.id}


async def refusal(call: Any) -> dict[str, str]:
    """Return code and text of the error a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return {"code": error.code().name, "details": error.details() or ""}
    return {}


async def ask_by_http(url: str) -> dict[str, Any]:
    """Ask over HTTP, in JSON and in raw contents."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    answers: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "affine"),
    }
    x = np.array([[1, 2, 3]], np.float32)
    for name, binary in (("json", False), ("raw", True)):
        tensor = InferInput("x", [1, 3], "FP32")
        tensor.set_data_from_numpy(x, binary_data=binary)
        request = InferRequest("affine", [tensor], request_id="r-7")
        response = await client.infer(url, request, model_name="affine")
        answers[name] = {output.name: output.as_numpy().tolist() for output in response.outputs}
    await client.close()
    return answers


async def main(address: str, url: str) -> dict[str, Any]:
    ones = np.ones((1, 3), np.float32)
    async with InferenceGRPCClient(address) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("affine"),
            "unknown_ready": await client.is_model_ready("no"),
            "affine": await infer(client, "affine", ones, model_version="1", request_id="r-7"),
            "raw": {one: await infer(client, one.lower(), example(one), one) for one in RAW_DATATYPES},
            "typed": {
                one: await infer(client, one.lower(), example(one), one, typed=True)
                for one in TYPED_DATATYPES
            },
            "unknown_model": await refusal(infer(client, "no", ones)),
            "http": await ask_by_http(url),
            "wrong_shape": await refusal(infer(client, "affine", ones[:, :2])),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:])), default=lambda value: value.decode()))  # noqa: T201 - its result
