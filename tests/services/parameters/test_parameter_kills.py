"""Twenty times `kill -9` under load: no acknowledged push is lost, and none is applied twice.

`python -m benchmarks.kills --rounds 200` is the same at length.
"""

from dataclasses import replace

import pytest

from benchmarks._kills import Scene, kill_rounds
from headrace.parameters.v1 import stores_pb2

ROUNDS = 5
PAUSE_S = 0.002  # a test is not alone on its machine


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "scene",
    [
        Scene(stores_pb2.DURABILITY_PROCESS, stores_pb2.CONSISTENCY_ASYNC, rows=True),
        Scene(stores_pb2.DURABILITY_DISK, stores_pb2.CONSISTENCY_BSP, shards=2),
        Scene(stores_pb2.DURABILITY_REPLICA, stores_pb2.CONSISTENCY_ASYNC),
        Scene(stores_pb2.DURABILITY_REPLICA_DISK, stores_pb2.CONSISTENCY_BSP, rows=True),
    ],
    ids=["process-async", "disk-bsp-clipped", "replica-async", "replica-disk-bsp"],
)
def test_a_killed_process_loses_no_acknowledged_push_and_applies_none_twice(scene: Scene) -> None:
    outcome = kill_rounds(replace(scene, pause_s=PAUSE_S), ROUNDS, seed=7)
    assert (outcome.lost, outcome.twice) == (0, 0)
    assert outcome.acknowledged >= ROUNDS * scene.workers * scene.least
