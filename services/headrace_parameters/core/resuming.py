"""A shard as its state says it was, by the map that it had then."""

from dataclasses import replace

from headrace.errors import InvalidArgument
from headrace_optimizers.fused import kind_of
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.members import Members
from headrace_parameters.core.memory import ValueMemory
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.state import ShardState


def resumed(
    state: ShardState, config: StoreConfig, memory: ValueMemory | None, members: Members | None = None
) -> Shard:
    """Return the shard of which `state` is: its own, by the map that it had.

    Args:
        members: As for `Shard`.
    Raises:
        InvalidArgument: It is the state of another shard or optimizer.
    """
    if state.map.epoch == 1 and len(state.map.shards) == config.shard_count:
        shard = Shard(config, memory, members)
        shard.restore(state)
        return shard
    shard = Shard(config.among(len(state.map.shards)), memory, members)
    if (state.shard_index, state.optimizer) != (config.shard_index, kind_of(config.optimizer)):
        raise InvalidArgument(f"it is of shard {state.shard_index}, with optimizer {state.optimizer}")
    shard.take_over(replace(state, members=state.members_for(config.epoch, shard.members)), {})
    return shard
