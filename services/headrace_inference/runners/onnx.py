"""A model in onnxruntime: loaded from bytes, never from a path of its own; run on checked arrays."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import onnxruntime as ort

from headrace.errors import FailedPrecondition
from headrace.inference.tensors import Array
from headrace_inference.cache import FileCache
from headrace_inference.core.batching import Arrays
from headrace_inference.core.elastic import Elastic
from headrace_inference.runners.onnx_sessions import (
    FAILURES,
    Hardware,
    Threads,
    make_ready,
    open_bytes,
    open_ready,
    ready_key,
    unrunnable,
)
from headrace_inference.runners.onnx_values import native, run_with_values, signature_of
from headrace_inference.runners.runner import ModelFile


class OnnxRunner:
    """One ONNX model, ready to run; thread-safe.

    On the processor it has several sessions over the same weights: a run that has the machine for itself takes the one
    that proves fastest (`core.elastic`), runs beside each other take the one that leaves a thread to each.

    Raises:
        FailedPrecondition: The bytes are no ONNX model, or one that cannot be served.
    """

    def __init__(self, file: ModelFile, hardware: Hardware, cache: FileCache) -> None:
        self._sessions = _Sessions(file, hardware, cache)
        try:
            self.signature = signature_of(self._sessions.take(0))
        except BaseException:
            self._sessions.close()
            raise
        tensors = (*self.signature.inputs, *self.signature.outputs)
        self._has_bf16 = any(tensor.datatype == "BF16" for tensor in tensors)
        self._plain = not self._has_bf16 and all(one.datatype != "BYTES" for one in self.signature.inputs)
        self._elastic = Elastic(self.ways)
        self._lock = threading.Lock()
        self._running = 0
        self._alone = False  # the run under way has had the machine for itself so far

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs."""
        elements = 0
        for (
            array
        ) in inputs.values():  # a run may take ten microseconds: sum() over a generator would be one of them
            elements += array.size
        way = self._begin(elements)
        began, took_s = time.perf_counter(), None
        try:
            answer = self.run_way(way, inputs, outputs)
            took_s = time.perf_counter() - began
        finally:
            self._end(elements, way, took_s)
        return answer

    @property
    def ways(self) -> int:
        """In how many ways it can run."""
        return self._sessions.ways

    def run_way(self, way: int, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Do as `run`, in one of the ways."""
        session = self._sessions.take(way)
        try:
            arrays = (
                session.run(list(outputs), dict(inputs))
                if self._plain
                else self._run(session, inputs, outputs)
            )
        except FAILURES as error:
            raise unrunnable(error) from error
        return dict(zip(outputs, arrays, strict=True))

    def _begin(self, elements: int) -> int:
        with self._lock:
            self._running += 1
            self._alone = self._running == 1
            return self._elastic.choose(elements) if self._alone else self._sessions.shared_way

    def _end(self, elements: int, way: int, took_s: float | None) -> None:
        with self._lock:
            self._running -= 1
            if self._alone and took_s is not None:
                self._elastic.took(elements, way, took_s)

    def _run(self, session: ort.InferenceSession, inputs: Arrays, outputs: Sequence[str]) -> Sequence[Array]:
        feed: Mapping[str, Array] = {name: native(name, array) for name, array in inputs.items()}
        if self._has_bf16:
            return run_with_values(session, outputs, feed)
        return [np.asarray(array) for array in session.run(list(outputs), feed)]

    def close(self) -> None:
        """Give back the weights."""
        self._sessions.close()


class _Sessions:
    """The sessions of a model, opened when they are first wanted: a small model never wants a second one."""

    def __init__(self, file: ModelFile, hardware: Hardware, cache: FileCache) -> None:
        self._lock = threading.Lock()
        self._opened: dict[int, ort.InferenceSession] = {}
        self._closed = False
        self._held = ExitStack()
        self._threads: tuple[Threads, ...] = (Threads(hardware.threads),)
        self.shared_way = 0
        if not hardware.on_cpu:
            self._opened[0] = open_bytes(file.read(), hardware)
            return
        # So many that all workers together have the machine: each brings its own thread to those of the session.
        shared = Threads(max(1, hardware.threads - hardware.workers + 1))
        ways = [Threads(), shared, Threads(hardware.threads)]
        if hardware.threads > 1:
            ways.append(Threads(hardware.threads, spin=True))
        if hardware.threads > 3:  # on a machine that is half busy all of them would wait for each other
            ways.append(Threads(hardware.threads // 2, spin=True))
        self._threads = tuple(dict.fromkeys(ways))
        self.shared_way = self._threads.index(shared)
        ready = cache.entry(ready_key(file.digest), lambda folder: make_ready(file.read(), folder))
        self._folder = self._held.enter_context(ready)

    @property
    def ways(self) -> int:
        """How many different sessions there can be."""
        return len(self._threads)

    def take(self, way: int) -> ort.InferenceSession:
        """Return a session, which stays usable for whoever has it.

        Raises:
            FailedPrecondition: They are closed.
        """
        session = self._opened.get(way)
        if session is not None:
            return session
        with self._lock:
            if self._closed:
                raise FailedPrecondition("the model is unloaded; load it again")
            if way not in self._opened:
                self._opened[way] = open_ready(self._folder, self._threads[way])
            return self._opened[way]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._opened.clear()
            self._held.close()
