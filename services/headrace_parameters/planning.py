"""From the addresses of processes to the plan of a resharding."""

from collections.abc import Sequence
from dataclasses import replace

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import stores_pb2
from headrace_parameters.live import LiveStore
from headrace_parameters.peers import Peers
from headrace_parameters.plan import Plan
from headrace_parameters.wire import store_to_proto


def plan_change(
    store: LiveStore, peers: Peers, shards: Sequence[str], add: Sequence[str], remove: Sequence[str]
) -> Plan:
    """Plan the next map, and make the shards that join.

    Args:
        store: The coordinator's shard.
        shards: Addresses of all processes that hold a shard now.
        add, remove: Those that shall hold one too, and those of `shards` that shall not.
    Raises:
        InvalidArgument: `shards` are not all there are, or the others do not fit them.
        FailedPrecondition: The store has no values yet, or its processes are not as they were said to be.
    """
    layout, now = store.layout, store.map
    if store.published is None or layout is None or now is None:
        raise FailedPrecondition(f"{store.config.name} has no values here; ask a process that holds some")
    present = _present(store, now, peers, shards)
    leaving = [shard for shard, address in present.items() if address in remove]
    if len(leaving) != len(remove) or set(add) & set(shards) or len(set(add)) != len(add):
        raise InvalidArgument(
            "`remove` must be among `shards`, `add` must not, and each but once", field="remove"
        )
    joining, held = _joining(store, now, peers, add)
    addresses = {shard: address for shard, address in (present | joining).items() if shard not in leaving}
    following = now.changed(joining.keys(), leaving, addresses)
    count = len(following.shards)
    store.config.among(count)
    for shard in joining.keys() - held:
        peers.create(joining[shard], joining_request(store_to_proto(store), shard, count))
    return Plan(replace(now, addresses=present), following, store.config.shard_index, layout)


def _present(store: LiveStore, now: ShardMap, peers: Peers, shards: Sequence[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for address in shards:
        held = peers.get(address, str(store.config.name))
        if held.epoch != store.config.epoch or held.shard_map.epoch != now.epoch:
            raise FailedPrecondition(f"{address} does not hold a shard of {store.config.name} as it is now")
        found[held.shard_index] = address
    if sorted(found) != list(now.shards) or len(shards) != len(found):
        raise InvalidArgument(
            f"{store.config.name} has the shards {list(now.shards)}; give the addresses of all of them, once each",
            field="shards",
        )
    return found


def _joining(
    store: LiveStore, now: ShardMap, peers: Peers, add: Sequence[str]
) -> tuple[dict[int, str], set[int]]:
    """Give each process an id, and say which of them hold a shard with it already, which left before or was about to join."""
    joining: dict[int, str] = {}
    there: set[int] = set()
    for address in add:
        shard = max((*now.shards, *joining)) + 1
        try:
            held = peers.get(address, str(store.config.name))
            if held.epoch == store.config.epoch:
                shard = held.shard_index
                there.add(shard)
        except NotFound:
            pass
        if shard in now.shards or shard in joining:
            raise FailedPrecondition(
                f"{address} has shard {shard} of {store.config.name}, and so has another; delete the store there"
            )
        joining[shard] = address
    return joining, there


def joining_request(store: stores_pb2.Store, shard: int, count: int) -> stores_pb2.CreateStoreRequest:
    """Ask for another shard of a store: with every setting that the request and the store have both, by name."""
    request = stores_pb2.CreateStoreRequest()
    for field, value in store.ListFields():
        if field.name in request.DESCRIPTOR.fields_by_name:
            if field.message_type:
                getattr(request, field.name).MergeFrom(value)  # of one message, or of all tables
            else:
                setattr(request, field.name, value)
    request.shard_index, request.shard_count, request.joins = shard, count, True
    return request
