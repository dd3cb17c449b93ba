"""What models have done, on the wire."""

from headrace.inference.oip.v2 import statistics_pb2 as pb
from headrace_inference.decoupled import DecoupledEngine
from headrace_inference.loader import Model
from headrace_inference.statistics import BatchTimes, Duration

MS = 1000  # in a second


def statistics_of(model: Model) -> pb.ModelStatistics:
    """Tell what one version of a model has done since it was loaded."""
    counted = model.engine.statistics.snapshot()
    return pb.ModelStatistics(
        name=model.key.model,
        version=model.source.number,
        last_inference=round(counted.last_s * MS),
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            cache_hit=pb.StatisticDuration(count=model.answers.hits if model.answers else 0),
            cache_miss=pb.StatisticDuration(count=model.answers.misses if model.answers else 0),
            **_times(counted.times),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, **_times(times))
            for rows, times in counted.batches.items()
        ],
        response_stats=_responses(model),
    )


def _responses(model: Model) -> dict[str, pb.InferResponseStatistics]:
    if not isinstance(model.engine, DecoupledEngine):
        return {}
    return {
        str(position): pb.InferResponseStatistics(
            compute_infer=_duration(counted.infer),
            compute_output=_duration(counted.output),
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            empty_response=_duration(counted.empty),
            cancel=_duration(counted.cancel),
        )
        for position, counted in model.engine.responses.snapshot().items()
    }


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)


def _times(times: BatchTimes) -> dict[str, pb.StatisticDuration]:
    return {
        "compute_input": _duration(times.compute_input),
        "compute_infer": _duration(times.compute_infer),
        "compute_output": _duration(times.compute_output),
    }
