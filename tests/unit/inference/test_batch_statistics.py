"""One object counts what a version of a model does; ModelStatistics and Prometheus read the same numbers."""

from prometheus_client import CollectorRegistry, generate_latest

from headrace.testing import FakeClock
from headrace_inference.core.batching import Cut
from headrace_inference.core.catalog import Key
from headrace_inference.metrics import ModelMetrics
from headrace_inference.statistics import NS, BatchStatistics, BatchTimes, Duration, Run

KEY = Key("default", "digits")


def run(rows: int = 2, queued_s: tuple[float, ...] = (1.0, 3.0), cut: Cut = Cut.DRAINED, **other: int) -> Run:
    return Run(rows, queued_s, input_s=1, infer_s=2, output_s=3, cut=cut, **other)


def counted(*runs: Run) -> BatchStatistics:
    statistics = BatchStatistics(FakeClock(1_000))
    for one in runs:
        statistics.ran(one)
    return statistics


def test_a_request_counts_with_the_time_of_its_whole_batch() -> None:
    seen = counted(run()).snapshot()
    assert (seen.inferences, seen.executions, seen.last_s) == (2, 1, 1_000)
    assert seen.queue == Duration(2, 4 * NS)
    assert seen.times == BatchTimes(Duration(2, 2 * NS), Duration(2, 4 * NS), Duration(2, 6 * NS))
    assert seen.success == Duration(2, (4 + 2 * 6) * NS)


def test_a_batch_counts_once_among_those_of_its_size() -> None:
    seen = counted(run(2), run(2), run(5)).snapshot()
    assert list(seen.batches) == [2, 5]
    assert seen.batches[2] == BatchTimes(Duration(2, 2 * NS), Duration(2, 4 * NS), Duration(2, 6 * NS))


def test_sizes_without_end_do_not_become_lines_without_end() -> None:
    seen = counted(*(run(1025 + more) for more in range(1000))).snapshot()
    assert list(seen.batches) == [2048]


def test_failures_count_by_reason() -> None:
    statistics = counted()
    for reason in ("CANCELLED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT"):
        statistics.failed(reason, 0.5)
    seen = statistics.snapshot()
    assert seen.fail == Duration(4, 2 * NS)
    assert seen.cancel == Duration(1, NS // 2)
    assert seen.reject == Duration(2, NS)
    assert seen.success == Duration()


def test_prometheus_reads_the_same_numbers_until_the_version_is_forgotten() -> None:
    registry = CollectorRegistry()
    metrics, statistics = ModelMetrics(registry), counted(run(3, (0.2, 20), elements=8, padding=2))
    statistics.failed("CANCELLED", 1)
    metrics.watch(KEY, "1", statistics, lambda: 7)
    labels = {"project": "default", "model": "digits", "version": "1"}

    def value(name: str, **more: str) -> float | None:
        return registry.get_sample_value(f"headrace_inference_{name}", labels | more)

    assert value("requests_total", outcome="OK") == 2
    assert value("requests_total", outcome="CANCELLED") == 1
    assert value("batches_total", cut="drained") == 1
    assert value("batch_rows_sum") == 3
    assert value("queue_seconds_bucket", le="0.25") == 1
    assert value("queue_seconds_bucket", le="10.0") == 1
    assert value("queue_seconds_bucket", le="+Inf") == 2
    assert value("run_seconds_count") == 1
    assert (value("padded_elements_total"), value("padding_elements_total")) == (8, 2)
    assert value("waiting") == 7
    metrics.forget(KEY, "1", counted())  # another one's: the version was loaded again meanwhile
    assert value("waiting") == 7
    metrics.forget(KEY, "1", statistics)
    assert b'model="digits"' not in generate_latest(registry)
