"""Which of the versions that a store makes others may see: none before it is as safe as the store promises."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_parameters.core.config import Norms
from headrace_parameters.core.exchange import Published
from headrace_parameters.core.joint import Measured
from headrace_parameters.news import News


@dataclass(frozen=True)
class Made:
    """What a change led to, and how far everything must follow before anyone may know."""

    change: int
    published: Published | None
    measured: Mapping[Norms, Measured]
    positions: tuple[int, ...]


class Visibility:
    """The newest version that others may see, and the newest norms. `change` and `made` are to be called under the lock of whoever changes the shard.

    Args:
        first: Seen from the beginning, if there is one.
        measured: As `first`.
        news: Of whoever waits for versions.
    """

    def __init__(self, first: Published | None, measured: Mapping[Norms, Measured], news: News) -> None:
        self.published = first
        self.measured = measured
        self._news = news
        self._changes = self._shown = 0

    def change(self) -> None:
        """Take note that something was changed."""
        self._changes += 1

    def made(
        self,
        published: Published | None,
        measured: Mapping[Norms, Measured],
        positions: tuple[int, ...],
    ) -> Made:
        """Say what all changes so far led to."""
        return Made(self._changes, published, measured, positions)

    def show(self, made: Made) -> None:
        """Let pulls see what a change led to, unless they see a later one already."""

        def show() -> None:
            if made.change > self._shown:
                self._shown = made.change
                self.published, self.measured = made.published, made.measured

        self._news.tell(show)
