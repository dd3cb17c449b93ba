"""The quotas of all projects in this process."""

import threading
from collections.abc import Callable, Mapping

from headrace.errors import QuotaExceeded
from headrace_parameters.core.quota import ProjectQuota, TokenBucket

_MOST_IDLE = 1024  # projects remembered without need


class Quotas:
    """Admits calls, and counts what they move.

    Args:
        default: Of every project without one of its own.
        projects: By project id; a quota there takes the place of the default, whole.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        default: ProjectQuota,
        projects: Mapping[str, ProjectQuota],
        clock: Callable[[], float],
    ) -> None:
        self._default = default
        self._projects = projects
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def of(self, project: str) -> ProjectQuota:
        """Return a project's quota."""
        return self._projects.get(project, self._default)

    def admit(self, project: str) -> None:
        """Let one call in, and count it.

        Raises:
            QuotaExceeded: The project has used up what it may; `retry_after_s` says when to come again.
        """
        quota = self.of(project)
        if not quota.calls_per_s and not quota.bytes_per_s:
            return
        rates = {"calls_per_s": quota.calls_per_s, "bytes_per_s": quota.bytes_per_s}
        with self._lock:
            now = self._clock()
            for name, rate in rates.items():
                if rate and (wait_s := self._bucket(project, name, rate, now).wait_s(now)):
                    raise _too_fast(project, name, rate, wait_s)
            if quota.calls_per_s:
                self._buckets[project, "calls_per_s"].spend(1)

    def spend_bytes(self, project: str, size_bytes: int) -> None:
        """Count what a call has moved."""
        rate = self.of(project).bytes_per_s
        if rate:
            with self._lock:
                self._bucket(project, "bytes_per_s", rate, self._clock()).spend(size_bytes)

    def _bucket(self, project: str, name: str, rate: float, now: float) -> TokenBucket:
        found = self._buckets.get((project, name))
        if found is None:
            self._forget_idle(now)
            found = self._buckets[project, name] = TokenBucket(rate, now)
        return found

    def _forget_idle(self, now: float) -> None:
        """Forget buckets that are as good as new, if there are many."""
        if len(self._buckets) >= _MOST_IDLE:
            for key, bucket in list(self._buckets.items()):
                if not bucket.wait_s(now) and bucket.is_full:
                    del self._buckets[key]


def _too_fast(project: str, name: str, rate: float, wait_s: float) -> QuotaExceeded:
    return QuotaExceeded(
        f"project {project!r} has used its {name} of {rate:g} in this process; nothing was applied: call again in {wait_s:.3f} s, as the "
        "client does by itself, or ask the operator for more (HEADRACE_PARAMETERS_PROJECT_QUOTAS)",
        metadata={"subject": f"projects/{project}", "quota": name, "limit": rate},
        retry_after_s=wait_s,
    )
