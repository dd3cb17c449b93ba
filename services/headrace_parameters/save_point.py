"""Bringing all shards of a store to one moment, so that a checkpoint has the same pushes of all of them, and going on from it.

cuts = hold(...)                # on each shard
state(..., latest(cuts))        # on each shard, soon
"""

from headrace.errors import Aborted, FailedPrecondition
from headrace.parameters.cut import Cut, latest
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.gate import HOLD_S
from headrace_parameters.live import LiveStore
from headrace_parameters.position import behind_all, cuts


def hold(store: LiveStore) -> Cut:
    """Let a store take no further push for a while, and say where the shard is."""
    with store.alone():
        store.check_stays()
        if store.shard.published is None:
            raise FailedPrecondition(f"{store.config.name} has no values to save yet; call Initialize first")
        return store.gate.hold(latest(cuts(store)), HOLD_S)


def saved(store: LiveStore, cut: Cut | None = None) -> ShardState:
    """Return a copy of everything, of one moment: as soon as the shard is at `cut`, after `hold`; Aborted if it is not in time."""
    with store.changing:
        if cut:
            _come_to(store, cut)
        store.check_serves()
        found, made = store.state(), store.made()
    store.tell(made)
    return found


def restore(store: LiveStore, state: ShardState) -> None:
    """Let a store become what `state` says."""
    with store.alone():
        _become(store, state)
        made = store.made()
    store.tell(made)


def begin(store: LiveStore, state: ShardState) -> None:
    """Let a store that nobody else has yet begin with what `state` says."""
    _become(store, state)
    store.visibility.show(store.made())


def _become(store: LiveStore, state: ShardState) -> None:
    store.shard.check_layout(state.layout)
    if store.next_map or (store.map and store.map.epoch > 1):
        raise FailedPrecondition(
            f"the shards of {store.config.name} have changed or are about to; create a store from the snapshots"
        )
    restored = Shard(store.config, store.memory, store.members)
    restored.restore(state)
    store.become(restored, state.tables)


def _come_to(store: LiveStore, cut: Cut) -> None:
    store.check_stays()
    store.gate.meet(cut, lambda: behind_all(store))
    if latest(cuts(store)) != dict(cut):
        raise Aborted("a table has gone on; repeat the snapshot")
