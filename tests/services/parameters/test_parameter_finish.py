"""One worker ends the run of a store for all."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.errors import RunFinished, StaleEpoch
from headrace.parameters.v1 import stores_pb2
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, create_request, flat

MODES = [stores_pb2.CONSISTENCY_BSP, stores_pb2.CONSISTENCY_SSP, stores_pb2.CONSISTENCY_ASYNC]


@pytest.mark.parametrize("consistency", MODES[:2])
def test_a_worker_that_waits_for_another_hears_that_the_run_is_over(
    servers: list[ParameterServer], connect: Connect, consistency: stores_pb2.Consistency.ValueType
) -> None:
    for index, server in enumerate(servers):
        server.stores.create(
            create_request(shard_index=index, shard_count=2, worker_count=2, consistency=consistency)
        )
    lead, other = connect(*servers), connect(*servers, worker=1)
    lead.initialize(LAYOUT, flat())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.push_pull, 0, flat(1), 1.0)
        lead.finish_run()
        with pytest.raises(RunFinished, match="was ended by one of its workers"):
            waiting.result(timeout=10)


@pytest.mark.parametrize("consistency", MODES)
def test_after_the_end_nothing_is_taken_and_a_repeat_changes_nothing(
    server: ParameterServer, connect: Connect, consistency: stores_pb2.Consistency.ValueType
) -> None:
    server.stores.create(create_request(consistency=consistency))
    store = connect(server)
    store.initialize(LAYOUT, flat())
    store.push_pull(0, flat(1), 1.0)
    store.finish_run()
    store.finish_run()
    for call in (lambda: store.push_pull(1, flat(1), 1.0), store.pull, store.snapshot):
        with pytest.raises(RunFinished):
            call()
    assert server.stores.get(NAME).version == 1


def test_an_older_attempt_cannot_end_the_run_of_a_newer_one(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(create_request(epoch=2))
    newer = connect(server, epoch=2)
    newer.initialize(LAYOUT, flat())
    with pytest.raises(StaleEpoch):
        connect(server, epoch=1).finish_run()
    assert newer.push_pull(0, flat(1), 1.0).version == 1


def test_a_newer_attempt_makes_the_store_anew_after_the_end(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(create_request(epoch=1))
    connect(server).finish_run()
    server.stores.create(create_request(epoch=2))
    again = connect(server, epoch=2)
    again.initialize(LAYOUT, flat())
    assert again.push_pull(0, flat(1), 1.0).version == 1
