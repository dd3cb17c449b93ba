"""What a worker does to its gradients on their way to a shard, by streams."""

from collections.abc import Iterator, Sequence

import numpy as np

from headrace.parameters.codec import carried
from headrace.parameters.encoded import MOST_VALUES
from headrace.parameters.filters import sparse
from headrace.parameters.filters.config import Compression
from headrace.parameters.filters.encodings import CODECS, Encoding, check_fits_float16
from headrace.parameters.filters.residual import Residual
from headrace.parameters.filters.sparse import Places
from headrace.parameters.layout import Floats
from headrace.parameters.wire import Carrier, Piece, carry


class ShardFilter:
    """One worker's filter for one shard, with what it keeps back."""

    def __init__(self, compression: Compression) -> None:
        self._gradients = compression.gradients
        self._residual: Residual | None = None
        self._waits = False  # for the gradient in which something was left out to arrive

    def carry(self, first: Carrier, pieces: Sequence[Piece], *, partial: bool = False) -> Iterator[Carrier]:
        """Yield the messages that carry a gradient. Nothing is kept back for good until `sent` is called.

        Args:
            partial: It is for some values alone: it may have fewer bits, but nothing of it is kept back.
        Raises:
            NonFiniteValues: The gradient cannot be sent so, at once and not while it is sent.
        """
        if isinstance(self._gradients, Encoding):
            if self._gradients is Encoding.FLOAT16:
                for piece in pieces:
                    check_fits_float16(piece.values)
            return carry(first, pieces, self._gradients)
        self._waits = not partial
        if partial:
            return carry(first, pieces)
        gradient = _joined(pieces)
        if self._residual is None:
            self._residual = Residual(self._gradients.select, gradient.size)
        places, values = self._residual.choose(gradient)
        return _carry_chosen(first, places, values, gradient.size)

    @property
    def by_chunk(self) -> bool:
        """Whether each chunk of a gradient can be sent without the others: not where they compete for being sent."""
        return isinstance(self._gradients, Encoding)

    def chunk(self, message: Carrier, piece: Piece) -> Carrier:
        """Return `message` with one chunk, as `carry` sends it, of a gradient that travels by chunk.

        Raises:
            NonFiniteValues: It cannot be sent so.
        """
        assert isinstance(self._gradients, Encoding), "whoever calls has asked whether it travels by chunk"
        if self._gradients is Encoding.FLOAT16:
            check_fits_float16(piece.values)
        (made,) = carry(message, [piece], self._gradients)
        return made

    def sent(self) -> None:
        """Take note that the gradient has arrived."""
        if self._residual and self._waits:
            self._residual.sent()


def _joined(pieces: Sequence[Piece]) -> Floats:
    return (
        pieces[0].values
        if len(pieces) == 1
        else np.concatenate([np.empty(0, np.float32), *(piece.values for piece in pieces)])
    )


def _carry_chosen(first: Carrier, places: Places, values: Floats, size: int) -> Iterator[Carrier]:
    """Yield messages with values, shape (m,), at `places` of `size`; each chunk in whichever encoding is shorter."""
    message = first
    for start in range(0, size, MOST_VALUES):
        count = min(MOST_VALUES, size - start)
        chosen = slice(*np.searchsorted(places, [start, start + count]))
        here, there = places[chosen] - start, values[chosen]
        encoding, data = Encoding.SPARSE, sparse.encode(here, there, count)
        if data.nbytes > CODECS[Encoding.FLOAT32].size(count):
            dense = np.zeros(count, np.float32)
            dense[here] = there
            encoding, data = Encoding.FLOAT32, CODECS[Encoding.FLOAT32].encode(dense)
        yield carried(message, start, data.data, encoding, count)
        message = type(first)()
    if not size:
        yield message
