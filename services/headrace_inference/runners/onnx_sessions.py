"""Sessions of onnxruntime: a model is made ready once, in files; any number of sessions then share the mapped weights.

onnxruntime keeps a copy of the weights for every session, in the order that its kernels like. Made ready means that the
graph is optimized and the weights are written in that order. Sessions map the file instead of copying it: a second one
costs about 3 MB, none repeats the work, and memory is given back by unmapping.
"""

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as pybind

from headrace.errors import FailedPrecondition, HeadraceError, InvalidArgument, ResourceExhausted

Provider = tuple[str, Mapping[str, str]]

CPU = "CPUExecutionProvider"
_ON_CPU: Sequence[Provider] = ((CPU, {}),)
# The level "fatal" of onnxruntime: what it has to say comes as an exception, and goes to the caller.
SILENT = 4
GRAPH, WEIGHTS = "model.onnx", "weights.bin"
MAPPED_FROM_BYTES = 1024  # smaller weights stay in the graph's file

# Those of onnxruntime's own have no base class in common; the other two come from its conversions.
FAILURES: tuple[type[Exception], ...] = (
    *(kind for kind in vars(pybind).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Hardware:
    """What sessions run on.

    Args:
        threads: Threads that share the work of a run that has the machine for itself, >= 1.
        workers: Runs that share the machine when there is much to do, >= 1.
        providers: onnxruntime's execution providers with their options, most wanted first.
    """

    threads: int = 1
    workers: int = 1
    providers: tuple[Provider, ...] = ((CPU, {}),)

    def __post_init__(self) -> None:
        """Refuse providers that this build of onnxruntime lacks; it would take another one in silence."""
        available = ort.get_available_providers()
        for provider, _ in self.providers:
            if provider not in available:
                raise FailedPrecondition(
                    f"onnxruntime has no provider {provider!r} here; it has {', '.join(available)}"
                )

    @property
    def on_cpu(self) -> bool:
        """Whether nothing but the processor computes."""
        return all(provider == CPU for provider, _ in self.providers)


@dataclass(frozen=True)
class Threads:
    """The threads of one session; `spin`: they wait awake for the next operator, while a run is under way."""

    count: int = 1
    spin: bool = False


def make_ready(data: bytes, folder: Path) -> None:
    """Write a model into `folder` as `open_ready` wants it.

    Raises:
        FailedPrecondition: The bytes are no ONNX model, or one that cannot be served.
    """
    options = _options(Threads())
    options.optimized_model_filepath = str(folder / GRAPH)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": WEIGHTS,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(MAPPED_FROM_BYTES),
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    # A model may name files for its weights. It shall find none: this is no folder.
    _refuse_other_files(options)
    _open(data, options, _ON_CPU)


def open_ready(folder: Path, threads: Threads) -> ort.InferenceSession:
    """Open what `make_ready` wrote, on the processor."""
    options = _options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return _open((folder / GRAPH).read_bytes(), options, _ON_CPU)


def open_bytes(data: bytes, hardware: Hardware) -> ort.InferenceSession:
    """Open a model on other hardware than the processor, which has weights of its own.

    Raises:
        FailedPrecondition: As `make_ready`; or a provider does not start.
    """
    options = _options(Threads(hardware.threads))
    _refuse_other_files(options)
    session = _open(data, options, hardware.providers)
    running = session.get_providers()
    for provider, _ in hardware.providers:
        if provider not in running:
            raise FailedPrecondition(
                f"{provider} does not start on this machine; install what it needs, or leave it out of PROVIDERS"
            )
    return session


def ready_key(digest: str) -> str:
    """Name what `make_ready` writes: it depends on the model, on onnxruntime and on what the processor can do."""
    facts = f"{ort.__version__} {platform.machine()} {_processor()}"
    return f"onnx-{digest}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if not facts.exists():
        return platform.processor()
    lines = facts.read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _options(threads: Threads) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.count
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    spin = "1" if threads.spin else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    # Between runs they sleep all the same: they would take the processor from the threads that speak gRPC.
    options.add_session_config_entry("session.force_spinning_stop", spin)
    return options


def _refuse_other_files(options: ort.SessionOptions) -> None:
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)


def _open(data: bytes, options: ort.SessionOptions, providers: Sequence[Provider]) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(
            data, options, providers=[(name, dict(options)) for name, options in providers]
        )
    except FAILURES as error:
        raise _unloadable(error) from error


def _unloadable(error: Exception) -> HeadraceError:
    text = _said(error)
    if "External data" in text or "model_path" in text:
        return FailedPrecondition("the model keeps weights in other files; save it with its weights inside")
    return FailedPrecondition(f"onnxruntime cannot load the model: {text}")


def unrunnable(error: Exception) -> HeadraceError:
    """Say why a run failed."""
    text = _said(error)
    if "allocate memory" in text or "bad_alloc" in text:
        return ResourceExhausted("not enough memory for this request; send fewer rows at a time")
    return InvalidArgument(f"the model cannot run these inputs: {text}")


def _said(error: Exception) -> str:
    """Return the part of onnxruntime's text that is about the model, not about its own sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].rpartition("Status Message: ")[2].rpartition(" : ")[2]
    return re.sub(r"/\S+:\d+ ", "", text)[-300:]
