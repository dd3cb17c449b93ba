"""How long a batch of so many rows takes, learned from those that ran: a fixed part and a part for each row.

    seconds(rows) = fixed + each * rows, fitted by least squares in which older batches weigh less and less.

Nothing is known before the first batch; then the fewest assumptions are made, so that nobody is refused for a guess.
"""

import math

WEIGHT = 0.1  # of the newest batch: twenty batches later an old one has a tenth of its weight left
FRESH_S = 1.0  # how long what was learned counts against a request without being tried again
LEAST_SPREAD = 1e-3  # relative variance of the sizes below which no slope can be told


class RunTimes:
    """What is known of one model's speed; tells no time, locks nothing."""

    def __init__(self) -> None:
        self._seen = 0
        self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0
        self._deviation = 0.0
        self._last = -math.inf
        self.fixed_s = 0.0
        self.each_s = 0.0

    @property
    def known(self) -> bool:
        """Whether any batch has run."""
        return self._seen > 0

    def learn(self, rows: int, seconds: float, now: float) -> None:
        """Take in a batch that ran."""
        if self._seen:
            error = abs(seconds - self.expected(rows))
            self._deviation += WEIGHT * (error - self._deviation)
        self._seen += 1
        self._last = now
        weight = max(
            WEIGHT, 1 / self._seen
        )  # the first ones are a plain mean: the very first must not weigh most
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)
        self._rows_rows += weight * (rows * rows - self._rows_rows)
        self._rows_seconds += weight * (rows * seconds - self._rows_seconds)
        self._fit()

    def _fit(self) -> None:
        spread = self._rows_rows - self._rows * self._rows
        self.each_s = 0.0
        if spread > LEAST_SPREAD * self._rows_rows:
            slope = (self._rows_seconds - self._rows * self._seconds) / spread
            self.each_s = min(max(slope, 0.0), self._seconds / self._rows)
        self.fixed_s = self._seconds - self.each_s * self._rows

    def expected(self, rows: float) -> float:
        """Return how long a batch takes, in seconds; 0 as long as nothing is known."""
        return self.fixed_s + self.each_s * rows

    def most(self, rows: float) -> float:
        """Return how long a batch takes at most, as a rule, in seconds: more than expected by twice the mean error."""
        return self.fixed_s + self.each_s * rows + 2 * self._deviation

    def least(self, rows: int, now: float) -> float:
        """Return how long a batch takes at least, in seconds: what a request may be refused for.

        It is less than expected by twice the mean error, for a few rows no more than their part of the mean, and 0 when
        no batch has run for a while: what was slow once must not be refused for ever.
        """
        expected = self.expected(rows)
        if now - self._last > FRESH_S + 10 * expected:
            return 0.0
        part = self._seconds * rows / self._rows if rows < self._rows else expected
        return max(0.0, min(expected, part) - 2 * self._deviation)

    def worth_sharing(self) -> float:
        """Return the rows at which half of a batch's time is its fixed part: smaller shares cost more than they gain."""
        return self.fixed_s / self.each_s if self.each_s > 0 else math.inf
