"""What the inference service can be told, by environment variables `HEADRACE_INFERENCE_*`."""

import os
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from headrace.node import NodeSettings
from headrace.rpc.addresses import is_loopback
from headrace_inference.core.batching import MAX_LEVELS, Batching

GIB = 1 << 30


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(NodeSettings):
    """Settings of one process of the inference service."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_INFERENCE_")

    address: str = Field("127.0.0.1:8472", description="host:port to serve gRPC on; port 0 takes a free one.")
    metrics_address: str = Field(
        "127.0.0.1:9472", description='host:port of the Prometheus endpoint; "" turns it off.'
    )
    http_address: str = Field(
        "", description='host:port to answer the protocol over HTTP on ("/v2/..."); "" answers none.'
    )
    registry_address: str = Field(
        "127.0.0.1:8471", description='host:port of the registry that models are loaded from; "" loads none.'
    )
    slots: int = Field(16, ge=1, le=1024, description="Models it serves at a time.")
    max_model_bytes: int = Field(
        4 * GIB,
        ge=1,
        description="Most bytes of memory of the loaded models together, as measured when each was loaded.",
    )
    evict_models: bool = Field(
        False,
        description="Unload the models used longest ago, if they are idle, to make room; they come back when they are asked for. "
        "Not on a node of a scheduler, which would load them again at once.",
    )
    max_concurrent_rpcs: int = Field(
        256,
        ge=1,
        le=4096,
        description="Calls served at a time; every request that waits for a worker is one.",
    )
    max_batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Most rows of several requests that run together; 1 turns batching off.",
    )
    max_queue_size: int = Field(
        128, ge=1, le=4096, description="Requests that wait for one model; one more is refused."
    )
    max_queue_wait_s: float = Field(
        30.0,
        gt=0,
        description="A request that would wait longer for a worker, as far as can be told, is refused at once; in seconds.",
    )
    max_queue_delay_s: float = Field(
        0.0,
        ge=0,
        le=60,
        description="How long a request may wait beside a free worker for others to run with it, in seconds; 0 turns that off.",
    )
    preferred_batch_sizes: list[int] = Field(
        [],
        description="Rows of batches the models are quick with, separated by commas; a batch is cut to the largest that is there.",
    )
    priority_levels: int = Field(
        1,
        ge=1,
        le=MAX_LEVELS,
        description="Levels that requests may name as their priority; 1 goes first, and who names none has the last.",
    )
    # One worker, because while it is busy the next batch grows: two batches at a time are two smaller ones, and slower.
    workers: int = Field(1, ge=1, le=256, description="Batches of one model that run at the same time.")
    threads: int = Field(
        default_factory=_cores,
        ge=1,
        le=256,
        description="Threads that share the work of one batch, if that is faster; by default one per core.",
    )
    providers: list[str] = Field(
        ["CPUExecutionProvider"],
        min_length=1,
        description="onnxruntime's execution providers, most wanted first, separated by commas.",
    )
    allowed_functions: list[str] = Field(
        [],
        description="Modules and packages whose Python functions may be served as models, separated by commas.",
    )
    max_response_cache_bytes: int = Field(
        64 << 20,
        ge=0,
        description="Most bytes of the answers kept for one model whose configuration enables its response_cache.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder that keeps models from one start to the next; without one they are fetched again.",
    )
    max_cache_bytes: int = Field(
        16 * GIB, ge=0, description="Most bytes kept in it; the models used longest ago are removed first."
    )
    trace_file: str = Field(
        "",
        description='File for the requests that the rpc TraceSetting has traced; "": events of their spans, see TRACES.',
    )

    @field_validator("http_address")
    @classmethod
    def _is_local_or_allowed_too(cls, text: str, info: ValidationInfo) -> str:
        if text and not is_loopback(text) and not info.data.get("allow_unauthenticated"):
            raise ValueError("other machines can reach it, as they can ADDRESS; see there")
        return text

    @model_validator(mode="after")
    def _evicts_only_alone(self) -> Self:
        if self.evict_models and self.scheduler_address:
            raise ValueError(
                "EVICT_MODELS is set beside SCHEDULER_ADDRESS; a scheduler decides by itself which models a node has: leave one out"
            )
        return self

    @property
    def batching(self) -> Batching:
        """How requests share a model's workers, where the model says nothing else."""
        return Batching(
            workers=self.workers,
            max_size=self.max_batch_size,
            max_waiting=self.max_queue_size,
            max_delay_s=self.max_queue_delay_s,
            preferred_sizes=tuple(sorted(self.preferred_batch_sizes)),
            levels=self.priority_levels,
            default_level=self.priority_levels,
            max_wait_s=self.max_queue_wait_s,
        )

    @model_validator(mode="after")
    def _preferred_sizes_fit(self) -> Self:
        for size in self.preferred_batch_sizes:
            if not 1 <= size <= self.max_batch_size:
                raise ValueError(
                    f"preferred_batch_sizes holds {size}; it must be from 1 to max_batch_size {self.max_batch_size}"
                )
        return self
