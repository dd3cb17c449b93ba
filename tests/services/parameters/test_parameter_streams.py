"""Values of one message and of several, as gRPC carries them."""

import numpy as np
import pytest

from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.wire import CHUNK_VALUES
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import create_request, parameter_server

SIZES = [1, CHUNK_VALUES, CHUNK_VALUES + 1, 2 * CHUNK_VALUES + 3]


@pytest.fixture
def transport() -> str:
    return "stream"


@pytest.mark.parametrize("size", SIZES)
def test_values_arrive_as_they_were_sent_in_however_many_messages(connect: Connect, size: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    with parameter_server(max_bytes=1 << 24) as server:
        server.stores.create(create_request(learning_rate=1))
        store = connect(server)
        store.initialize(FlatLayout((TensorSpec("w", (size,)),)), np.zeros(size, np.float32))

        store.push(0, values, samples=1)
        pushed = store.pull()
        returned = store.push_pull(1, -values, samples=1)

    np.testing.assert_array_equal(pushed.values, -values)
    np.testing.assert_array_equal(returned.values, 0 * values)
