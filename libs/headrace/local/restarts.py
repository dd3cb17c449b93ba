"""When a process that ended is started again."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pauses import Pauses

PAUSES = Pauses(first_s=0.1, longest_s=5.0)
GOOD_RUN_S = 30.0  # a process that ran this long has shown that it can: its failures are forgotten


@dataclass
class RestartPolicy:
    """Doubles the wait with each quick failure in a row, so that a process that cannot start does not keep the machine busy."""

    failures: int = 0

    def delay_after(self, ran_s: float) -> float:
        """Return the seconds to wait before the next start, given how long the process ran."""
        self.failures = 1 if ran_s >= GOOD_RUN_S else self.failures + 1
        return PAUSES.after(self.failures)
