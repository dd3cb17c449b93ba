"""The result of a run as a version in the registry, made once however often the run is attempted."""

import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from headrace.errors import RequestIdReused
from headrace.names import ModelName
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace.training.v1.workers_pb2 import StartTaskRequest, Strategy

WEIGHTS_FILE = "model.safetensors"
KEY_LABEL = "training"


def register(
    registry: RegistryClient,
    request: StartTaskRequest,
    state: Mapping[str, torch.Tensor],
    metrics: Mapping[str, float],
    step: int,
) -> Version:
    """Upload the weights and make the version, or return the one that an earlier attempt of the same run made.

    Args:
        state: The state dict.
        metrics: Measures on the test split.
        step: Optimizer steps that the state holds.
    """
    key = run_key(request)
    weights = Path(WEIGHTS_FILE)
    save_file(dict(state), weights)
    artifact = registry.upload_file(ModelName.parse(request.model).project, weights)
    version = Version(
        files=[File(path=WEIGHTS_FILE, artifact=artifact, role=FileRole.FILE_ROLE_WEIGHTS)],
        program=request.program,
        job=request.job,
        metrics=metrics,
        labels=facts_of(request) | {"step": str(step), KEY_LABEL: key},
    )
    try:
        return registry.create_version(request.model, version, request_id=key)
    except RequestIdReused:
        # An earlier attempt got this far, was cut off before it could say so, and measured a little differently.
        for earlier in registry.list_versions(request.model):
            if earlier.labels.get(KEY_LABEL) == key:
                return earlier
        raise


def run_key(request: StartTaskRequest) -> str:
    """Name the run of a request, the same for all its ranks and attempts: by its job, or its task when started by hand."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{request.job or request.name} {request.model}"))


def facts_of(request: StartTaskRequest) -> dict[str, str]:
    """Say in a few words how a run trains."""
    options = request.options
    facts: dict[str, object] = {
        "seed": options.seed,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "workers": request.world_size,
        "strategy": Strategy.Name(request.strategy or Strategy.STRATEGY_PARAMETER_SERVER)
        .removeprefix("STRATEGY_")
        .lower(),
        "shards": len(request.shards),
        "torch": torch.__version__,
    }
    return {key: str(value) for key, value in facts.items()}
