"""A shard that is about to take over values of others."""

from datetime import UTC, datetime

import pytest

from headrace.errors import ShardMapChanged
from headrace.names import StoreName
from headrace_optimizers.config import Sgd
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.live import LiveStore


def test_who_comes_by_the_next_map_before_the_shard_has_it_asks_again() -> None:
    """The others change to it a moment earlier, and tell it to workers."""
    config = StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=2,
        shard_count=3,
        worker_count=1,
        consistency=Consistency.BSP,
        optimizer=Sgd(1.0),
        joins=True,
    )

    with pytest.raises(ShardMapChanged):
        LiveStore(config, datetime.now(UTC)).check_map(2)
