"""A demo's result for people."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace.demo.result import DemoResult, Variant


def render(result: DemoResult, *, kept: bool) -> RenderableType:
    """Return the table, where the report lies, and how to look around, or how to be able to."""
    after = look_around(result) if kept else _keep(result)
    return Group(_variants(result), _stages(result), _paths(result), after)


def _variants(result: DemoResult) -> Table:
    table = Table(title=f"{result.example}: {result.version}", title_justify="left", title_style="bold")
    table.add_column("file")
    table.add_column(result.goal, justify="right")
    table.add_column("bytes", justify="right")
    for latency in result.variants[0].latencies:
        who = "1 caller" if latency.concurrency == 1 else f"{latency.concurrency} callers"
        table.add_column(f"p50 / p99 ms\n{who}", justify="right")
        table.add_column(f"requests/s\n{who}", justify="right")
    table.add_column("gates")
    for variant in result.variants:
        table.add_row(*_cells(variant, result.goal), style="bold" if variant.served else "")
    return table


def _cells(variant: Variant, goal: str) -> list[str]:
    cells = [f"{variant.file} (served)" if variant.served else variant.file]
    cells += [f"{variant.metrics[goal]:.4f}", f"{variant.size_bytes:,}"]
    for latency in variant.latencies:
        cells += [f"{latency.p50_ms:.2f} / {latency.p99_ms:.2f}", f"{latency.requests_per_s:,.0f}"]
    return [*cells, variant.verdict]


def _stages(result: DemoResult) -> Text:
    stages = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in result.stages)
    again = f" ({result.attempts} attempts)" if result.attempts > 1 else ""
    return Text(
        f"training: {result.workers} workers, {result.shards} parameter shards, {result.steps} steps, "
        f"{result.samples_per_s:,.0f} samples/s{again}\n"
        f"wall time: {stages}; {result.total_seconds:.1f} s in all"
    )


def _paths(result: DemoResult) -> Text:
    return Text(f"report: {result.report}\nplot:   {result.plot}")


def _keep(result: DemoResult) -> Text:
    return Text(
        f"\nThe services have stopped; to try them yourself: headrace demo --example {result.example} --keep"
    )


def look_around(result: DemoResult) -> Text:
    """Return commands for a person with grpcurl."""
    scheduler, registry, inference = (
        result.scheduler_address,
        result.registry_address,
        result.inference_address,
    )
    return Text(
        "\n".join(
            [
                "",
                "It is still running; Ctrl-C stops it. To look around:",
                f"  grpcurl -plaintext {scheduler} list",
                f"  grpcurl -plaintext {scheduler} headrace.scheduler.v1.Cluster/ListNodes",
                f"""  grpcurl -plaintext -d '{{"parent": "projects/default"}}' {scheduler} headrace.scheduler.v1.Jobs/ListJobs""",
                f"""  grpcurl -plaintext -d '{{"name": "{result.version}"}}' {registry} headrace.registry.v1.Models/GetVersion""",
                f"""  grpcurl -plaintext -d '{{"name": "{result.example}"}}' {inference} inference.GRPCInferenceService/ModelMetadata""",
                f"  headrace --address {scheduler} jobs",
            ]
        ),
        no_wrap=True,
    )


def print_result(result: DemoResult, console: Console, *, kept: bool) -> None:
    """Print everything; wide enough that no column is cut when the output is no terminal."""
    console.print(render(result, kept=kept), soft_wrap=True)
