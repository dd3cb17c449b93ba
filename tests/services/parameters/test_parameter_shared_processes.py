"""Shared memory between real processes: who dies leaves none behind, who may not see it does without."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1.tables_pb2 import RowOptimizer, RowSgd
from headrace.testing import until
from tests.services.parameters.parameter_process import REPOSITORY_ENVIRONMENT, service_process
from tests.services.parameters.parameter_server import NAME, create_request

WORKER = """
import sys, numpy as np
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import FlatLayout, TensorSpec
layout = FlatLayout((TensorSpec("w", (300_000,)),))
store = ShardedStore([sys.argv[1]], sys.argv[2], epoch=1, worker=0)
step = store.initialize(layout, np.zeros(300_000, np.float32))
gradient = store.gradient_memory(300_000)
gradient.fill(1)
while True:
    step = store.push_pull(step, gradient, 1).version
    print(store.transport, step, flush=True)
"""


def _worker(address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, address, NAME],
        env=REPOSITORY_ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )


def _mapped(pid: int, access: str) -> set[str]:
    """Return the segments a process has mapped: its own to write ("rw-s"), those of others to read ("r--s", gradients "rw-p")."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line for line in lines if "/memfd:headrace" in line and line.split()[1] == access}


def _named_files() -> list[str]:
    """Return what of ours has a name in memory; other programs' files come and go."""
    return [path.name for path in Path("/dev/shm").iterdir() if "headrace" in path.name]


def test_a_worker_killed_in_the_middle_of_its_pushes_leaves_no_memory_behind() -> None:
    with service_process("parameters") as (address, process), StoresClient(address) as stores:
        stores.create(create_request(learning_rate=1))
        worker = _worker(address)
        assert worker.stdout
        assert worker.stdout.readline() == "shared memory 1\n"
        assert len(_mapped(process.pid, "rw-p")) == 1

        worker.kill()
        worker.wait()

        until(lambda: not _mapped(process.pid, "rw-p"))
        worker.stdout.close()
        with ShardedStore([address], NAME, epoch=0, worker=0) as reader:
            pulled = reader.pull()
            assert reader.transport == "shared memory"
        assert (pulled.values == -pulled.version).all()
        stores.delete(NAME)
        until(lambda: not _mapped(process.pid, "rw-s"))
    assert not _named_files()


def test_a_shard_that_was_killed_leaves_no_memory_behind_in_its_workers() -> None:
    mapped = _mapped(os.getpid(), "r--s")
    layout = FlatLayout((TensorSpec("w", (1000,)),))
    with service_process("parameters") as (address, process):
        with StoresClient(address) as stores:
            stores.create(create_request(learning_rate=1))
        with ShardedStore([address], NAME, epoch=1, worker=0, timeout_s=10) as store:
            store.initialize(layout, np.zeros(1000, np.float32))
            store.push_pull(0, np.ones(1000, np.float32), samples=1)
            assert len(_mapped(os.getpid(), "r--s") - mapped) == 1
            process.send_signal(signal.SIGKILL)
            process.wait()

            with pytest.raises(Exception, match=r"cannot reach|did not answer"):
                store.push_pull(1, np.ones(1000, np.float32), samples=1)

            assert not _mapped(os.getpid(), "r--s") - mapped
    assert not _named_files()


def test_two_workers_share_memory_with_two_shards() -> None:
    """Each value is exact: sums of ones."""
    size = 200_001
    layout = FlatLayout((TensorSpec("w", (size,)),))
    with service_process("parameters") as (first, _), service_process("parameters") as (second, _):
        for index, address in enumerate((first, second)):
            with StoresClient(address) as stores:
                request = create_request(shard_index=index, shard_count=2, worker_count=2, learning_rate=1)
                stores.create(request)
        results: list[tuple[str, Floats]] = []

        def work(rank: int) -> None:
            with ShardedStore([first, second], NAME, epoch=1, worker=rank) as store:
                store.initialize(layout, np.zeros(size, np.float32))
                values = np.empty(size, np.float32)
                for step in range(10):
                    store.push_pull(step, np.full(size, 2 * rank, np.float32), samples=1, out=values)
                    assert (values == -(step + 1)).all()
                results.append((store.transport, values))

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [transport for transport, _ in results] == ["shared memory"] * 2


STRANGER = """
import os, sys, numpy as np
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import FlatLayout, TensorSpec
store = ShardedStore([sys.argv[1]], sys.argv[2], epoch=1, worker=0)
store.initialize(FlatLayout((TensorSpec("w", (10,)),)), np.zeros(10, np.float32))
if sys.argv[3] == "other user":
    os.setuid(65534)  # nobody
for step in range(2):
    values = store.push_pull(step, np.ones(10, np.float32), samples=1).values
print(*values, store.transport, store.why_stream)
"""

OTHER_CONTAINER = ("unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc")


def _can_be(stranger: str) -> bool:
    if stranger == "other user":
        return os.getuid() == 0
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*OTHER_CONTAINER, "true"], check=False).returncode == 0


@pytest.mark.parametrize("stranger", ["other user", "other container"])
def test_a_worker_that_may_not_see_the_memory_uses_streams_by_itself(stranger: str) -> None:
    if not _can_be(stranger):
        pytest.skip(f"nobody here may start a process of an {stranger}")
    with service_process("parameters") as (address, _):
        with StoresClient(address) as stores:
            stores.create(create_request(learning_rate=1))
        done = subprocess.run(
            [
                *(OTHER_CONTAINER if stranger == "other container" else ()),
                *(sys.executable, "-c", STRANGER, address, NAME, stranger),
            ],
            env=REPOSITORY_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.stdout.startswith("-2.0 " * 10 + "stream cannot open /proc/"), done.stdout + done.stderr
    assert "as one user, in one container" in done.stdout


def test_a_shard_of_a_table_that_was_killed_leaves_no_memory_behind_either() -> None:
    mapped = _mapped(os.getpid(), "r--s")
    with service_process("parameters") as (address, process):
        request = create_request(learning_rate=1)
        request.tables.add(name="users", dim=4, optimizer=RowOptimizer(sgd=RowSgd(learning_rate=1)))
        with StoresClient(address) as stores:
            stores.create(request)
        with ShardedTables([address], NAME, epoch=1, worker=0, timeout_s=10) as tables:
            tables.pull_rows("users", np.array([1, 2], np.uint64))
            assert len(_mapped(os.getpid(), "r--s") - mapped) == 1
            process.send_signal(signal.SIGKILL)
            process.wait()

            with pytest.raises(Exception, match=r"cannot reach|did not answer"):
                tables.pull_rows("users", np.array([1, 2], np.uint64))

            assert not _mapped(os.getpid(), "r--s") - mapped
