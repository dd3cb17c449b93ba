"""From the addresses of processes to the plan of a resharding."""

from collections.abc import Sequence
from dataclasses import replace

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY
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
    serving = _present(store, now, peers, shards)
    present = dict(zip(serving, shards, strict=True))
    leaving = [shard for shard, address in present.items() if address in remove]
    if len(leaving) != len(remove) or set(add) & set(shards) or len(set(add)) != len(add):
        raise InvalidArgument(
            "`remove` must be among `shards`, `add` must not, and each but once", field="remove"
        )
    joining, held = _joining(store, now, peers, add)
    if store.config.durability.replicated and (missing := sorted(joining.keys() - held.keys())):
        raise FailedPrecondition(
            f"{', '.join(joining[shard] for shard in missing)} must have a shard of {store.config.name} to join, and each a replica: create "
            "them with `joins`, and an id that no shard has had",
            field="add",
        )
    addresses = {shard: address for shard, address in (present | joining).items() if shard not in leaving}
    following = now.changed(joining.keys(), leaving, addresses)
    count = len(following.shards)
    store.config.among(count)
    for shard in joining.keys() - held.keys():
        peers.create(joining[shard], joining_request(store_to_proto(store), shard, count))
    pairs = {
        shard: each.assignment for shard, each in (serving | held).items() if each.HasField("assignment")
    }
    return Plan(
        replace(now, addresses=present),
        following,
        store.config.shard_index,
        layout,
        replicas={shard: pair.replica for shard, pair in pairs.items() if pair.replica},
        terms={shard: pair.term for shard, pair in pairs.items()},
    )


def _present(
    store: LiveStore, now: ShardMap, peers: Peers, shards: Sequence[str]
) -> dict[int, stores_pb2.Store]:
    """Ask all shards what they are; in the order of the addresses."""
    found: dict[int, stores_pb2.Store] = {}
    for address in shards:
        held = peers.get(address, str(store.config.name))
        if held.epoch != store.config.epoch or held.shard_map.epoch != now.epoch:
            raise FailedPrecondition(f"{address} does not hold a shard of {store.config.name} as it is now")
        _check_serves(held, address)
        found[held.shard_index] = held
    if sorted(found) != list(now.shards) or len(shards) != len(found):
        raise InvalidArgument(
            f"{store.config.name} has the shards {list(now.shards)}; give the addresses of all of them, once each",
            field="shards",
        )
    return found


def _joining(
    store: LiveStore, now: ShardMap, peers: Peers, add: Sequence[str]
) -> tuple[dict[int, str], dict[int, stores_pb2.Store]]:
    """Give each process an id, and say which of them hold a shard with it already, which left before or was about to join."""
    joining: dict[int, str] = {}
    there: dict[int, stores_pb2.Store] = {}
    for address in add:
        shard = max((*now.shards, *joining)) + 1
        try:
            held = peers.get(address, str(store.config.name))
            if held.epoch == store.config.epoch:
                _check_serves(held, address)
                shard = held.shard_index
                there[shard] = held
        except NotFound:
            pass
        if shard in now.shards or shard in joining:
            raise FailedPrecondition(
                f"{address} has shard {shard} of {store.config.name}, and so has another; delete the store there"
            )
        joining[shard] = address
    return joining, there


def _check_serves(store: stores_pb2.Store, address: str) -> None:
    if store.HasField("assignment") and store.assignment.role != STORE_ROLE_PRIMARY:
        raise FailedPrecondition(
            f"{address} is not the primary of shard {store.shard_index} of {store.name}; name that one"
        )


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
