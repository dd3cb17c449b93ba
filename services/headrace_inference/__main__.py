"""The process of the inference service: `python -m headrace_inference`; `--help` lists its settings."""

from headrace.config import load_or_exit
from headrace.inference.oip.descriptor_pool import POOL
from headrace.inference.oip.v2.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from headrace.node import Agent, join
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.rpc.server import AddressUnavailable
from headrace.scheduler.v1.nodes_pb2 import NodeKind, Report
from headrace_inference.cache import FileCache, temporary_folder
from headrace_inference.core.catalog import Catalog
from headrace_inference.loader import Loader, Model
from headrace_inference.metrics import ModelMetrics
from headrace_inference.models import Models
from headrace_inference.report import report
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.opening import Opener
from headrace_inference.servicer import PROBES, RULES, InferenceServicer
from headrace_inference.settings import Settings


def main() -> None:
    """Serve until told to stop."""
    settings = load_or_exit(Settings)
    with Process("inference", settings) as process:
        models = _models(process, settings)
        servicer = InferenceServicer(
            models, is_ready=lambda: not process.stopping.is_set(), trace_file=settings.trace_file
        )
        process.serve(
            lambda server: add_GRPCInferenceServiceServicer_to_server(servicer, server),
            rules=RULES,
            pools=[POOL],
            probes=PROBES,
            on_listening=lambda address: _listen_and_join(process, settings, models, address),
        )


def _models(process: Process, settings: Settings) -> Models:
    metrics = ModelMetrics(process.metrics)
    hardware = Hardware(settings.threads, settings.workers, tuple((name, {}) for name in settings.providers))
    loader = Loader(
        _registry(process, settings),
        Opener(hardware, _cache(settings), settings.allowed_functions).open,
        settings.batching,
        metrics,
        answer_bytes=settings.max_response_cache_bytes,
    )
    catalog: Catalog[Model] = Catalog(settings.slots, settings.max_model_bytes)
    return Models(catalog, loader, metrics, drain_s=settings.drain_s, evicts=settings.evict_models)


def _cache(settings: Settings) -> FileCache:
    if settings.cache_dir is not None:
        return FileCache(settings.cache_dir, settings.max_cache_bytes)
    return FileCache(temporary_folder(), max_bytes=0)


def _registry(process: Process, settings: Settings) -> RegistryClient | None:
    if not settings.registry_address:
        return None
    channel = open_channel(settings.registry_address)
    process.closing(channel.close)
    return RegistryClient(channel)


def _listen_and_join(process: Process, settings: Settings, models: Models, address: str) -> None:
    """Answer HTTP too, if that is wished; be a node, and say goodbye to the scheduler before the last requests are answered."""
    if settings.http_address:
        from headrace_inference.rest.serving import serve_http  # 50 ms for those who wish it

        http = serve_http(
            settings.http_address,
            grpc_address=address,
            max_connections=settings.max_concurrent_rpcs,
            max_body_bytes=settings.max_message_bytes,
        )
        try:
            process.holding(http)
        except AddressUnavailable as error:
            process.refuse("http_address", error)
    agent = Agent(
        settings.scheduler_address,
        settings.hello("inference", NodeKind.NODE_KIND_INFERENCE, address),
        report=lambda: Report(models=report(models.listings())),
    )
    models.on_change(agent.changed)
    join(process, agent, leave=agent.leaving)


if __name__ == "__main__":
    main()
