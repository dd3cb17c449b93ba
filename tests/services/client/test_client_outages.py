"""A scheduler that dies while somebody waits, and comes back."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import headrace
from headrace.errors import Cancelled
from headrace.scheduler.v1 import jobs_pb2
from tests.services.client.front_door import open_front_door

WAIT_S = 40


def test_waiting_goes_on_when_the_scheduler_is_killed_and_started_again(tmp_path: Path) -> None:
    watched, restarted = threading.Event(), threading.Event()

    def announce(line: str) -> None:
        if "scheduler started again" in line:
            restarted.set()

    with (
        open_front_door(tmp_path, announce) as door,
        headrace.connect(door.address) as client,
        ThreadPoolExecutor() as threads,
    ):
        job = client.train("headrace_examples.digits:Digits", "digits", steps=1, batch_size=1)
        waiting = threads.submit(client.wait, job, lambda _job: watched.set(), WAIT_S)
        assert watched.wait(WAIT_S)
        os.kill(door.supervisor.pid("scheduler"), signal.SIGKILL)
        assert restarted.wait(WAIT_S)

        last = next(client.watch(job, timeout_s=WAIT_S))  # begun while it still starts
        client.cancel(job)

        assert last.state == jobs_pb2.JOB_STATE_QUEUED
        with pytest.raises(Cancelled, match="was cancelled"):
            waiting.result(WAIT_S)
