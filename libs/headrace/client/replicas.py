"""Which replica of a deployment is asked next."""

from __future__ import annotations

from headrace.client.outcome import failure
from headrace.errors import Unavailable
from headrace.scheduler.v1 import deployments_pb2 as deployments


class Replicas:
    """The ready replicas of the deployments that were asked for, as far as known; each is asked in turn.

    Threads may share it: what one overwrites, another learns anew.
    """

    def __init__(self) -> None:
        self._ready: dict[str, tuple[str, ...]] = {}
        self._turn = 0

    def learn(self, deployment: deployments.Deployment) -> str:
        """Remember where the deployment is served now, and return the address of one replica.

        Raises:
            Unavailable: Nowhere yet.
            HeadraceError: Nowhere, and it never will be: the version cannot be served.
        """
        ready = tuple(replica.address for replica in deployment.serving if replica.ready)
        self._ready[deployment.name] = ready
        if not ready and deployment.state == deployments.DEPLOYMENT_STATE_FAILED:
            raise failure(deployment.name, deployment.failure)
        if not ready:
            wished = max(deployment.replicas, 1)
            raise Unavailable(
                f"{deployment.name} has 0 of {wished} replicas ready; wait, or see why with "
                f"`headrace deployments` and `headrace nodes`"
            )
        return self._next(ready)

    def knows(self, name: str) -> bool:
        """Tell whether the scheduler has ever told of the deployment."""
        return name in self._ready

    def pick(self, name: str) -> str | None:
        """Return the address of the replica whose turn it is; None if none is known."""
        ready = self._ready.get(name, ())
        return self._next(ready) if ready else None

    def drop(self, name: str, address: str) -> None:
        """Forget a replica that did not answer."""
        self._ready[name] = tuple(one for one in self._ready.get(name, ()) if one != address)

    def _next(self, ready: tuple[str, ...]) -> str:
        self._turn += 1
        return ready[self._turn % len(ready)]
