"""What filters cost, and on which links they are worth it: the suites of `python -m benchmarks.parameters compression`.

First what encoding and decoding costs, in gigabytes of float32 per second. Then a step of one worker with one shard by streams, the gradient
up and the values down, over links of several bandwidths: processes that forward so many bits per second each way. From the time of a step
without a limit and the bytes that travel follows the bandwidth below which a filter is faster than none; the steps over slow links show whether
that holds.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count

import numpy as np

from benchmarks._shards import shard_process
from benchmarks._slow_link import slow_link
from benchmarks.harness import Case
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.encoded import compression_from_proto
from headrace.parameters.filtering import ShardFilter
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import compression_pb2, parameters_pb2, stores_pb2
from headrace.parameters.v1.compression_pb2 import Compression, Significance, TopK
from headrace.parameters.wire import Piece, carried_bytes, carry, receive

VALUES = 2_000_000
LINKS = {"10 Gbit/s": 1e10, "1 Gbit/s": 1e9, "100 Mbit/s": 1e8}
FILTERS = {
    "none": Compression(),
    "bf16": Compression(
        gradient_encoding=compression_pb2.ENCODING_BFLOAT16, value_encoding=compression_pb2.ENCODING_BFLOAT16
    ),
    "fp16": Compression(
        gradient_encoding=compression_pb2.ENCODING_FLOAT16, value_encoding=compression_pb2.ENCODING_FLOAT16
    ),
    "int8": Compression(
        gradient_encoding=compression_pb2.ENCODING_INT8, value_encoding=compression_pb2.ENCODING_INT8
    ),
    "top-k 1 %, int8": Compression(top_k=TopK(), value_encoding=compression_pb2.ENCODING_INT8),
    "significance 2, int8": Compression(
        significance=Significance(), value_encoding=compression_pb2.ENCODING_INT8
    ),
}
_LAYOUT = FlatLayout((TensorSpec("w", (VALUES,)),))
_GRADIENTS = 4  # different ones, in turn: what is kept back must not settle

_PACE = 8  # times that all gradients are sent before bytes are counted
MOST_MBITS = 1e6  # printed where a filter costs nothing, and wins over any link


def codec_cases() -> Iterator[Case]:
    """What the processor does, without a link."""
    for name, message in list(FILTERS.items())[1:]:
        yield Case(f"encode {name}", "GB/s", _encoding(message), more_is_better=True)
        if not name.startswith(("top", "sig")):
            yield Case(f"decode {name}", "GB/s", _decoding(message), more_is_better=True)


def _encoding(message: Compression) -> Callable[[], float]:
    gradients, made = _random(), ShardFilter(compression_from_proto(message))

    def measure() -> float:
        began = time.perf_counter()
        for gradient in gradients:
            for part in made.carry(parameters_pb2.PushRequest(), [Piece(0, gradient)]):
                assert part.chunk.values
            made.sent()
        return len(gradients) * 4 * VALUES / (time.perf_counter() - began) / 1e9

    return measure


def _decoding(message: Compression) -> Callable[[], float]:
    encoding, out = compression_from_proto(message).values, np.empty(VALUES, np.float32)
    parts = list(carry(parameters_pb2.PullResponse(), [Piece(0, _random()[0])], encoding))

    def measure() -> float:
        began = time.perf_counter()
        receive(parts, [Piece(0, out)])
        return 4 * VALUES / (time.perf_counter() - began) / 1e9

    return measure


def _random() -> list[Floats]:
    """Gradients with tails as heavy as real ones have, most values small."""
    generator = np.random.default_rng(0)
    return [generator.standard_t(3, VALUES).astype(np.float32) for _ in range(_GRADIENTS)]


@contextmanager
def compression() -> Iterator[list[Case]]:
    """Take steps with every filter over every link."""
    with ExitStack() as stack:
        address = stack.enter_context(shard_process(SLOTS="64"))
        direct = {name: Steps(stack, address, name, "direct") for name in FILTERS}
        made = [*codec_cases()]
        for name, link in direct.items():
            made.append(
                Case(f"step, {name}, no link", "ms", link.measure_ms, reference=_no_link("none", name))
            )
        made += [_win_case(name, direct) for name in list(FILTERS)[1:]]
        for speed, bits_per_s in LINKS.items():
            near = stack.enter_context(slow_link(address, bits_per_s))
            for name in FILTERS:
                case, reference = f"step, {name}, {speed}", f"step, none, {speed}" if name != "none" else ""
                made.append(Case(case, "ms", Steps(stack, near, name, speed).measure_ms, reference=reference))
        yield made


def _no_link(reference: str, name: str) -> str:
    return f"step, {reference}, no link" if name != reference else ""


def _win_case(name: str, direct: "Mapping[str, Steps]") -> Case:
    """Say below which bandwidth a filter is faster than none, by the last step with each."""

    def measure() -> float:
        none, made = direct["none"], direct[name]
        saved_bits, cost_s = 8 * (none.size_bytes - made.size_bytes), made.seconds - none.seconds
        return min(MOST_MBITS, saved_bits / cost_s / 1e6) if cost_s > 0 else MOST_MBITS

    return Case(f"{name} wins below", "Mbit/s", measure, more_is_better=True)


class Steps:
    """Steps with one filter over one link, with a store of their own."""

    def __init__(self, stack: ExitStack, address: str, filter_name: str, link: str) -> None:
        name = f"projects/default/stores/f{list(FILTERS).index(filter_name)}-{link.split(maxsplit=1)[0]}"
        _create(address, name, FILTERS[filter_name])
        self._store = stack.enter_context(
            ShardedStore([address], name, epoch=1, worker=0, shared_memory=False)
        )
        self._gradients, self._out = _random(), np.empty(VALUES, np.float32)
        self._compression = compression_from_proto(FILTERS[filter_name])
        self._store.initialize(_LAYOUT, np.zeros(VALUES, np.float32))
        self._steps = count()
        self.seconds = 0.0

    def measure_ms(self) -> float:
        """Take one step, and return its time."""
        step = next(self._steps)
        began = time.perf_counter()
        self._store.push_pull(step, self._gradients[step % _GRADIENTS], samples=1, out=self._out)
        self.seconds = time.perf_counter() - began
        return 1e3 * self.seconds

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of values that a step moves, both ways, once a filter has found its pace."""
        made, up = ShardFilter(self._compression), 0
        for gradient in _PACE * self._gradients:
            messages = made.carry(parameters_pb2.PushRequest(), [Piece(0, gradient)])
            up = sum(len(message.chunk.values) for message in messages)
            made.sent()
        return up + carried_bytes([Piece(0, self._out)], self._compression.values)


def _create(address: str, name: str, wanted: Compression) -> None:
    request = stores_pb2.CreateStoreRequest(
        name=name,
        epoch=1,
        shard_count=1,
        worker_count=1,
        consistency=stores_pb2.CONSISTENCY_BSP,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=1e-3)),
        compression=wanted,
    )
    with StoresClient(address) as stores:
        stores.create(request)
