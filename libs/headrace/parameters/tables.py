"""The client of a store's tables: rows by key, over all shards.

with ShardedTables(["127.0.0.1:8473", "127.0.0.1:8483"], "projects/default/stores/run", epoch=1, worker=0) as tables:
    rows = tables.pull_rows("users", [17, 4, 17], step=0).values       # shape (3, dim)
    tables.push_rows("users", 0, [17, 4], gradients, samples=32)
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Self

import grpc
import numpy as np
import numpy.typing as npt

from headrace.errors import DtypeMismatch, NotFound, ShapeMismatch
from headrace.parameters.answers import Place, Pulled, summed_up
from headrace.parameters.keys import Keys, as_keys
from headrace.parameters.known_shards import KnownShards
from headrace.parameters.layout import Floats
from headrace.parameters.route import Replicas
from headrace.parameters.row_lending import KEY_VALUES, RowLender, RowLoan
from headrace.parameters.row_parts import AskedRows, RowGradient
from headrace.parameters.row_shard import RowShardClient
from headrace.parameters.spread import Positions, Spread, Spreads


class ShardedTables:
    """All shards of the tables of one store, as one worker uses them; beside its `ShardedStore`, for dense tensors.

    Every method talks to all shards at once and repeats what a lost connection interrupted until `timeout_s` has passed, at the replica of a
    shard if that has taken over, and at other shards once these have joined or left; each raises what `headrace.errors` has for what the service answers. Methods may be called from any thread;
    those that share memory take turns.

    Args:
        shards: Addresses of the shards, or channels (which stay the caller's), shard 0 first.
        store: `projects/{project}/stores/{store}`.
        epoch: The run's; a shard with a greater one refuses everything with StaleEpoch. 0: a reader outside the run, who pulls alone.
        worker: 0 to the store's `worker_count` - 1.
        timeout_s: Bound of every method. Under BSP a pull waits for the slowest worker: allow for it.
        shared_memory: Exchange rows through memory with shards of this machine; False: always in messages.
        replicas: Where the shards are beside their primaries, if that is known.
    """

    def __init__(
        self,
        shards: Sequence[str | grpc.Channel],
        store: str,
        *,
        epoch: int,
        worker: int = 0,
        timeout_s: float = 60.0,
        shared_memory: bool = True,
        replicas: Replicas = Replicas(),  # noqa: B008 - it never changes
    ) -> None:
        shares = shared_memory and epoch > 0  # a reader has no segment of its own at the shards
        connect = partial(RowShardClient, store=store, epoch=epoch, worker=worker, shared_memory=shares)
        self._known = KnownShards(shards, connect, timeout_s, replicas)
        self._spreads = Spreads(self._known)
        self._store = store
        self._lender = RowLender(enabled=shares)
        self._closing = threading.Lock()
        self._dims: dict[str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, which then raises Cancelled, and free the connections. From any thread, and as often as you like."""
        with self._closing:
            self._known.close()
            nonce = self._lender.close()
            for shard in self._known.all:
                shard.release(nonce)
            self._known.close_channels()

    @property
    def _shards(self) -> Sequence[RowShardClient]:
        return self._known.clients

    @property
    def transport(self) -> str:
        """How rows travel, as of the last call: "shared memory" with all shards, else "message"."""
        return "shared memory" if all(shard.shares_memory for shard in self._shards) else "message"

    @property
    def why_message(self) -> str:
        """Why the first shard that shares no memory does not; empty if all do, or nothing has travelled yet."""
        return next((shard.why_not_shared for shard in self._shards if shard.why_not_shared), "")

    @property
    def dims(self) -> dict[str, int]:
        """Values of a row, by table; asked for once."""
        if self._dims is None:
            self._dims = {table.name: table.dim for store in self._spreads.stores for table in store.tables}
        return self._dims

    def follow(self, place: Place) -> None:
        """Push as a member of this generation: call it with each place that `ShardedStore.take_place` returns."""
        for shard in self._known.all:
            shard.generation = place.generation

    def pull_rows(
        self,
        table: str,
        keys: npt.ArrayLike,
        *,
        min_version: int = 0,
        step: int | None = None,
        out: Floats | None = None,
    ) -> Pulled:
        """Receive rows; `values` of the answer has shape (n, dim), in the order of the keys. Rows are not made by that.

        Args:
            keys: Integers, shape (n,), in any order; one may be there more than once.
            min_version: The table's version to wait for.
            step: The step to compute with them; waits until the store's consistency lets it be.
            out: Where to put the rows; new memory if None. After an error it may hold a part of them.
        Raises:
            NotFound: There is no such table.
        """
        asked = as_keys(keys)
        values = _output((asked.size, self._dim(table)), out)

        def work(spread: Spread) -> Pulled:
            with self._lender.lending(_values_of(spread, asked)) as loan:
                parts = [_asked(asked, each, loan, values) for each in spread.positions(asked)]
                received = spread.do(
                    lambda operation, index: spread.clients[index].pull(
                        operation, table, min_version, step, parts[index]
                    )
                )
            return summed_up(received, values)

        return self._spreads.by_map(work)

    def push_rows(
        self, table: str, step: int, keys: npt.ArrayLike, gradients: Floats, samples: float
    ) -> Pulled:
        """Send the gradient of rows, without waiting until it is applied; without keys too, once for each step.

        Args:
            step: BSP: the table's version. SSP, ASYNC: above this worker's last; SSP: within the bound.
            keys: Integers, shape (n,); gradients of a key that is there more than once are summed.
            gradients: Shape (n, dim), of the mean loss over `samples` samples.
            samples: The gradient's weight in the step's mean.
        Returns:
            The table's version and this worker's next step, without values.
        Raises:
            NotFound: There is no such table.
        """
        pushed = as_keys(keys)
        rows = self._checked(table, pushed, gradients)

        def work(spread: Spread) -> Pulled:
            with self._lender.lending(_values_of(spread, pushed, rows)) as loan:
                parts = [_gradient(pushed, rows, each, loan) for each in spread.positions(pushed)]
                received = spread.do(
                    lambda operation, index: spread.clients[index].push(
                        operation, table, step, samples, parts[index]
                    )
                )
            return summed_up(received, rows[:0])

        return self._spreads.by_map(work)

    def push_pull_rows(
        self,
        table: str,
        step: int,
        keys: npt.ArrayLike,
        gradients: Floats,
        samples: float,
        pull_keys: npt.ArrayLike,
        out: Floats | None = None,
    ) -> Pulled:
        """Send the gradient of rows, and receive those of `pull_keys` for the next step: one round trip for both."""
        pushed, asked = as_keys(keys), as_keys(pull_keys)
        rows = self._checked(table, pushed, gradients)
        values = _output((asked.size, self._dim(table)), out)

        def work(spread: Spread) -> Pulled:
            with self._lender.lending(_values_of(spread, pushed, rows) + _values_of(spread, asked)) as loan:
                sent = [_gradient(pushed, rows, each, loan) for each in spread.positions(pushed)]
                wanted = [_asked(asked, each, loan, values) for each in spread.positions(asked)]
                received = spread.do(
                    lambda operation, index: spread.clients[index].push_pull(
                        operation, table, step, samples, sent[index], wanted[index]
                    )
                )
            return summed_up(received, values)

        return self._spreads.by_map(work)

    def scan_rows(self, table: str) -> tuple[Keys, Floats]:
        """Receive all rows that somebody has pushed to: keys, shape (n,), ascending, and values, shape (n, dim).

        While workers push, each row is as of some moment during the call, and those made or forgotten meanwhile may be in it or not.

        Raises:
            NotFound: There is no such table.
        """
        dim = self._dim(table)
        parts = self._spreads.by_map(
            lambda spread: spread.do(
                lambda operation, index: list(spread.clients[index].scan(operation, table))
            )
        )
        keys = np.concatenate([keys for shard in parts for keys, _ in shard])
        values = np.concatenate([rows for shard in parts for _, rows in shard]).reshape(keys.size, dim)
        order = np.argsort(keys)
        return keys[order], values[order]

    def _dim(self, table: str) -> int:
        dim = self.dims.get(table)
        if dim is None:
            raise NotFound(
                f"{self._store} has no table {table!r} (it has {', '.join(self.dims) or 'none'}); declare it in CreateStore"
            )
        return dim

    def _checked(self, table: str, keys: Keys, gradients: Floats) -> Floats:
        dim = self._dim(table)
        if gradients.dtype != np.float32:
            raise DtypeMismatch(f"gradients of {gradients.dtype} were given; rows are float32")
        if gradients.shape != (keys.size, dim):
            raise ShapeMismatch(
                f"gradients of shape {list(gradients.shape)} were given for {keys.size} keys of {table!r}; give [{keys.size}, {dim}]"
            )
        return np.ascontiguousarray(gradients)


def _values_of(spread: Spread, keys: Keys, rows: Floats | None = None) -> int:
    """Return how many values a loan needs at most."""
    padding = KEY_VALUES * len(spread.clients)
    return KEY_VALUES * keys.size + (rows.size if rows is not None else 0) + padding


def _asked(keys: Keys, positions: Positions, loan: RowLoan | None, out: Floats) -> AskedRows:
    mine = keys[positions]
    return AskedRows(mine, loan.put_keys(mine) if loan else None, out, positions)


def _gradient(keys: Keys, rows: Floats, positions: Positions, loan: RowLoan | None) -> RowGradient:
    mine, gradients = keys[positions], rows[positions]
    if loan is None:
        return RowGradient(mine, gradients, None, None)
    return RowGradient(mine, gradients, loan.put_keys(mine), loan.put(gradients))


def _output(shape: tuple[int, int], out: Floats | None) -> Floats:
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise ShapeMismatch(
            f"`out` has shape {list(out.shape)} of {out.dtype}; it must be {list(shape)} of float32"
        )
    return out
