"""An update of a user's own in a real store: through a log, and when it fails."""

from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ProgramFailed, ProgramNotAllowed
from headrace.parameters.client import ShardedStore
from headrace.parameters.v1 import stores_pb2
from headrace_parameters import save_point
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)

RULES = "tests.unit.optimizers.rules"
ALLOWED = ["tests.unit.optimizers"]


def request(**config: float) -> stores_pb2.CreateStoreRequest:
    made = create_request()
    made.optimizer.registered.learning_rate, made.optimizer.registered.update = 1.0, f"{RULES}:Sgd"
    made.optimizer.registered.config.update(config)
    made.durability = stores_pb2.DURABILITY_PROCESS
    return made


def store_at(server: ParameterServer) -> ShardedStore:
    return ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=10)


def test_a_log_brings_back_an_update_of_ones_own_and_not_what_it_refused(tmp_path: Path) -> None:
    with parameter_server(folder=tmp_path, allowed_updates=ALLOWED) as server:
        made = server.stores.create(request(fail_at=4))
        assert made.optimizer.registered == request(fail_at=4).optimizer.registered
        with store_at(server) as store:
            store.initialize(LAYOUT, flat(0))
            for step in range(3):
                store.push(step, flat(1), samples=1)
            for _ in range(2):
                with pytest.raises(ProgramFailed, match=f"{RULES}:Sgd raised RuntimeError: no step 4"):
                    store.push(3, flat(1), samples=1)
            assert store.pull().values.tolist() == flat(-3).tolist()
    with (
        parameter_server(folder=tmp_path, allowed_updates=ALLOWED) as server,
        store_at(server) as store,
    ):
        pulled = store.pull()
        assert (pulled.version, pulled.values.tolist()) == (3, flat(-3).tolist())
        state = save_point.saved(server.table.all()[0]).optimizer_state
        assert np.array_equal(state["seen"].numpy(), flat(4))


def test_what_the_operator_does_not_allow_makes_no_store(tmp_path: Path) -> None:
    with parameter_server(folder=tmp_path) as server:
        with pytest.raises(ProgramNotAllowed, match="ALLOWED_UPDATES"):
            server.stores.create(request())

        assert not server.table.all()
