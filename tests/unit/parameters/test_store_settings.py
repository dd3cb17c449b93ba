"""Settings of a store that do not go together."""

from typing import Any

import pytest

from headrace.errors import InvalidArgument
from headrace.names import StoreName
from headrace_parameters.core.config import Adagrad, Adam, Consistency, Sgd, StoreConfig


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
        (lambda: Sgd(0.1, nesterov=True), "optimizer.sgd.nesterov", "false without momentum"),
        (lambda: Adam(0.1, beta1=1), "optimizer.adam.beta1", "above 0 and below 1"),
        (lambda: Adagrad(0), "optimizer.adagrad.learning_rate", "above 0"),
        (lambda: Adagrad(1, initial_accumulator=-1), "optimizer.adagrad.initial_accumulator", "0 or more"),
        (lambda: Adagrad(1, epsilon=0), "optimizer.adagrad.epsilon", "above 0"),
    ],
)
def test_settings_that_do_not_go_together_name_their_field(make: Any, field: str, bounds: str) -> None:
    with pytest.raises(InvalidArgument, match=f"it must be {bounds}") as refused:
        make()

    assert refused.value.field == field
