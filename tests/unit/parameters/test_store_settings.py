"""Settings of a store that make no sense, or do not go together."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.errors import InvalidArgument
from headrace.names import StoreName
from headrace_optimizers.config import Adagrad, Adam, AdamW, Sgd
from headrace_parameters.core.config import Consistency, StoreConfig


def config(consistency: Consistency, staleness_bound: int = 0, backup_workers: int = 0) -> StoreConfig:
    return StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=0,
        shard_count=1,
        worker_count=3,
        consistency=consistency,
        optimizer=Sgd(0.1),
        staleness_bound=staleness_bound,
        backup_workers=backup_workers,
    )


@pytest.mark.parametrize(
    ("make", "field", "bounds"),
    [
        (lambda: replace(config(Consistency.BSP), epoch=0), "epoch", "1 or more"),
        (lambda: replace(config(Consistency.BSP), worker_count=0), "worker_count", "1 or more"),
        (lambda: replace(config(Consistency.BSP), shard_count=0), "shard_count", "1 or more"),
        (lambda: replace(config(Consistency.BSP), shard_index=1), "shard_index", "0 to 0"),
        (
            lambda: config(Consistency.BSP, staleness_bound=1),
            "staleness_bound",
            "0 unless consistency is SSP",
        ),
        (
            lambda: config(Consistency.ASYNC, staleness_bound=1),
            "staleness_bound",
            "0 unless consistency is SSP",
        ),
        (lambda: config(Consistency.SSP, staleness_bound=-1), "staleness_bound", "0 or more"),
        (lambda: config(Consistency.SSP, backup_workers=1), "backup_workers", "0 unless consistency is BSP"),
        (
            lambda: config(Consistency.BSP, backup_workers=3),
            "backup_workers",
            "0 to 2, fewer than the workers",
        ),
        (lambda: Sgd(0), "optimizer.sgd.learning_rate", "above 0"),
        (lambda: Sgd(float("inf")), "optimizer.sgd.learning_rate", "above 0"),
        (lambda: Sgd(1, momentum=1), "optimizer.sgd.momentum", "0 to below 1"),
        (lambda: Sgd(1, weight_decay=-1), "optimizer.sgd.weight_decay", "0 or more"),
        (lambda: AdamW(float("nan")), "optimizer.adamw.learning_rate", "above 0"),
        (lambda: AdamW(1, beta1=1), "optimizer.adamw.beta1", "above 0 and below 1"),
        (lambda: AdamW(1, beta2=0), "optimizer.adamw.beta2", "above 0 and below 1"),
        (lambda: AdamW(1, epsilon=-1), "optimizer.adamw.epsilon", "above 0"),
        (lambda: Sgd(0.1, nesterov=True), "optimizer.sgd.nesterov", "false without momentum"),
        (lambda: Adam(0.1, beta1=1), "optimizer.adam.beta1", "above 0 and below 1"),
        (lambda: Adagrad(0), "optimizer.adagrad.learning_rate", "above 0"),
        (lambda: Adagrad(1, initial_accumulator=-1), "optimizer.adagrad.initial_accumulator", "0 or more"),
        (lambda: Adagrad(1, epsilon=0), "optimizer.adagrad.epsilon", "above 0"),
    ],
)
def test_settings_that_cannot_be_name_their_field(make: Any, field: str, bounds: str) -> None:
    with pytest.raises(InvalidArgument, match=f"it must be {bounds}") as refused:
        make()

    assert refused.value.field == field
