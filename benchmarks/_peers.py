"""The processes that `benchmarks.parameters` talks to: the end of a socket, and the workers of a training step."""

import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.malloc import keep_freed_memory
from headrace_training.core.early_gradient import ReadyParts

LEARNING_RATE = 1e-3
TENSORS = 10  # of equal size; DistributedDataParallel sends gradients in buckets, so a model is more than one tensor
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started
_TAKE, _GIVE = 0, 1
_HEADER = struct.Struct("!BQ")


class PlainSocket:
    """A socket to a process that takes bytes and gives bytes, and does nothing else."""

    def __init__(self, connected: socket.socket, size: int) -> None:
        self._socket = connected
        self._buffer = bytearray(size)

    def push(self) -> None:
        """Send all bytes; return when the other end has them."""
        self._socket.sendall(_HEADER.pack(_TAKE, len(self._buffer)))
        self._socket.sendall(self._buffer)
        _receive(self._socket, memoryview(bytearray(1)))

    def pull(self) -> None:
        """Ask for as many bytes; return when they are here."""
        self._socket.sendall(_HEADER.pack(_GIVE, len(self._buffer)))
        _receive(self._socket, memoryview(self._buffer))


@contextmanager
def plain_socket(size: int) -> Iterator[PlainSocket]:
    """Start the process at the other end, and stop it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve_socket, args=(theirs, size), daemon=True)
    process.start()
    with socket.create_connection(("127.0.0.1", ours.recv())) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield PlainSocket(connected, size)
    process.join()


def _serve_socket(port: Connection, size: int) -> None:
    buffer = memoryview(bytearray(size))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port.send(listener.getsockname()[1])
        connected, _ = listener.accept()
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while header := connected.recv(_HEADER.size, socket.MSG_WAITALL):
        kind, count = _HEADER.unpack(header)
        if kind == _TAKE:
            _receive(connected, buffer[:count])
            connected.sendall(b"\0")
        else:
            connected.sendall(buffer[:count])


def _receive(source: socket.socket, into: memoryview) -> None:
    while into:
        into = into[source.recv_into(into) :]


class Trainer(Protocol):
    """A model that takes training steps."""

    def step(self) -> None:
        """Take one."""

    def values(self) -> Floats:
        """Return all its parameters, one after the other."""


class Model(nn.Module):
    """As much model as it takes to have gradients: the loss is half the squared distance of the parameters to `target`."""

    def __init__(self, values: Floats, target: float) -> None:
        super().__init__()
        self._target = target
        self.parts = nn.ParameterList(torch.from_numpy(values).chunk(TENSORS))

    def forward(self) -> torch.Tensor:
        """Return the loss."""
        return torch.stack([(part - self._target).square().sum() / 2 for part in self.parts]).sum()


class HeadraceTrainer:
    """Parameters live in one flat vector, into which the store's values arrive; gradients in another, which streams send while it is computed."""

    def __init__(
        self, addresses: Sequence[str], transport: str, store: str, rank: int, values: Floats
    ) -> None:
        self._transport = transport
        self._flat = values.copy()
        shared = transport == "shared memory"
        self._store = ShardedStore(addresses, store, epoch=1, worker=rank, shared_memory=shared)
        self._gradient = self._store.gradient_memory(values.size)
        self._model = Model(self._flat, target=rank)
        for part, gradient in zip(
            self._model.parts, torch.from_numpy(self._gradient).chunk(TENSORS), strict=True
        ):
            part.grad = gradient
        parameters = dict(self._model.named_parameters())
        layout = FlatLayout.of({name: part.detach().numpy() for name, part in parameters.items()})
        self._parts = ReadyParts(parameters, layout)
        self._step = self._store.initialize(layout, values)

    def step(self) -> None:
        self._gradient.fill(0)
        loss = self._model()
        early = self._store.begin_push_pull(self._step, self._gradient, samples=1)
        with self._parts.told_to(early) if early else nullcontext():
            loss.backward()
        self._step = self._store.push_pull(self._step, self._gradient, samples=1, out=self._flat).version
        assert self._store.transport == self._transport, self._store.why_stream

    def values(self) -> Floats:
        return self._flat


class DdpTrainer:
    """DistributedDataParallel over gloo and the fused optimizer in each worker."""

    def __init__(self, port: int, rank: int, world: int, values: Floats) -> None:
        distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
        self._flat = values.copy()
        model = Model(self._flat, target=rank)
        self._model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self._optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, fused=True)

    def step(self) -> None:
        self._optimizer.zero_grad()
        self._model().backward()
        self._optimizer.step()

    def values(self) -> Floats:
        return self._flat


class Workers:
    """Worker processes that train the same model with the store and with DistributedDataParallel, in turn."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def step_ms(self, trainer: str, steps: int) -> float:
        """Let all take `steps` steps with "ddp" or the store of a transport; return the time of one, of the slowest worker."""
        return max(self._ask(trainer, steps)) / steps

    def largest_difference(self) -> float:
        """Return by how much the parameters of the two ways to train differ, now."""
        return max(self._ask("compare", 0))

    def _ask(self, what: str, steps: int) -> list[float]:
        for pipe in self._pipes:
            pipe.send((what, steps))
        return [pipe.recv() for pipe in self._pipes]


@contextmanager
def training_workers(
    addresses: Sequence[str], stores: Mapping[str, str], size: int, count: int
) -> Iterator[Workers]:
    """Start `count` workers that train `size` parameters, with a store for each transport, and stop them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(count):
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_work, args=(theirs, addresses, stores, size, port, rank, count), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    yield Workers(pipes)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(("stop", 0))
        process.join()


def _work(
    pipe: Connection,
    addresses: Sequence[str],
    stores: Mapping[str, str],
    size: int,
    port: int,
    rank: int,
    count: int,
) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    values = np.random.default_rng(0).normal(size=size).astype(np.float32)
    ddp = DdpTrainer(port, rank, count, values)
    ours = {
        transport: HeadraceTrainer(addresses, transport, store, rank, values)
        for transport, store in stores.items()
    }
    trainers: dict[str, Trainer] = {"ddp": ddp, **ours}
    while (asked := pipe.recv())[0] != "stop":
        what, steps = asked
        if what == "compare":
            pipe.send(max(float(np.abs(trainer.values() - ddp.values()).max()) for trainer in ours.values()))
            continue
        began = time.perf_counter()
        for _ in range(steps):
            trainers[what].step()
        pipe.send((time.perf_counter() - began) * 1e3)
    distributed.destroy_process_group()
    os._exit(0)  # the threads of gRPC and gloo do not agree on who goes first
