"""The service as the process it is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import Unavailable
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.v1 import parameters_pb2, parameters_pb2_grpc, stores_pb2
from headrace.rpc.channel import open_channel
from tests.services.parameters.parameter_process import service_process, start_worker
from tests.services.parameters.parameter_server import LAYOUT, NAME, create_request, flat


def test_workers_of_several_processes_push_at_once_and_nothing_is_lost() -> None:
    with service_process("parameters") as (address, _), StoresClient(address) as stores:
        request = create_request(worker_count=2, consistency=stores_pb2.CONSISTENCY_ASYNC, learning_rate=1)
        stores.create(request)

        workers = [start_worker(address, NAME, worker, pushes=50) for worker in range(2)]
        assert [worker.wait(60) for worker in workers] == [0, 0]

        with ShardedStore([address], NAME, epoch=0, worker=0) as reader:
            pulled = reader.pull()
    assert pulled.version == 100
    assert (pulled.values == -100).all()


def test_a_run_goes_on_from_the_registry_after_its_process_was_killed(tmp_path: Path) -> None:
    with service_process("registry", DATA_DIR=str(tmp_path)) as (registry, _):
        with service_process("parameters", REGISTRY_ADDRESS=registry) as (address, process):
            with StoresClient(address) as stores:
                stores.create(create_request(momentum=0.9))
            with ShardedStore([address], NAME, epoch=1, worker=0) as run:
                run.initialize(LAYOUT, flat(1))
                run.push_pull(0, flat(0.3), samples=1)
                snapshot = run.snapshot()
                expected = run.push_pull(1, flat(0.7), samples=1)
            process.kill()
        with service_process("parameters", REGISTRY_ADDRESS=registry) as (address, _):
            with StoresClient(address) as stores:
                stores.create(create_request(momentum=0.9, epoch=2, snapshots=[snapshot.artifacts[0]]))
            with ShardedStore([address], NAME, epoch=2, worker=0) as run:
                continued = run.push_pull(1, flat(0.7), samples=1)

    assert continued.version == expected.version == 2
    assert continued.values.tolist() == expected.values.tolist()


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_pull_that_waits_ends_with_the_process_and_does_not_keep_it(kill: signal.Signals) -> None:
    with (
        service_process("parameters", DRAIN_S="30") as (address, process),
        open_channel(address) as channel,
    ):
        StoresClient(channel).create(create_request())
        request = parameters_pb2.PullRequest(store=NAME, epoch=1)  # nobody will ever initialize it
        waiting = parameters_pb2_grpc.ParametersStub(channel).Pull(request, timeout=60)
        StoresClient(channel).get(NAME)  # answered behind the pull, which has arrived then

        process.send_signal(kill)

        assert process.wait(60) == (0 if kill == signal.SIGTERM else -kill)
        with pytest.raises(Unavailable):
            next(waiting)


def test_three_mistakes_in_the_settings_are_reported_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace_parameters"],
        env={
            "HEADRACE_PARAMETERS_SLOTS": "0",
            "HEADRACE_PARAMETERS_MAX_BYTES": "many",
            "HEADRACE_PARAMETERS_THREAD": "2",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert "HEADRACE_PARAMETERS_SLOTS = '0'" in done.stderr
    assert "HEADRACE_PARAMETERS_MAX_BYTES = 'many'" in done.stderr
    assert "HEADRACE_PARAMETERS_THREAD = '2': no such setting; did you mean" in done.stderr
