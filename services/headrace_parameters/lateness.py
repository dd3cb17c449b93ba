"""What to tell a caller whose values did not come in time."""

from headrace.errors import DeadlineExceeded
from headrace_parameters.core.config import Consistency
from headrace_parameters.core.exchange import Published
from headrace_parameters.core.need import Need
from headrace_parameters.core.shard import Shard


def too_late(shard: Shard, published: Published | None, need: Need) -> DeadlineExceeded:
    """Say who keeps `shard`, of which callers see `published`, from having what is needed."""
    config = shard.config
    if published is None:
        return DeadlineExceeded(f"{config.name} got no values in time; did a worker call Initialize?")
    missing = shard.missing_workers(need)
    step = max(need.clock - 1, published.version if config.consistency is Consistency.BSP else 0)
    why = f"the pushes of workers {missing} for step {step} are missing" if missing else "nobody pushed"
    if shard.awaits_rows:
        why = f"step {published.version} waits for gradients of rows, to be clipped with them: each worker pushes to each table"
    elif any(measured.step >= published.version for measured in shard.measured.values()):
        why = f"step {published.version} waits for its norm: FinishStep"
    return DeadlineExceeded(
        f"{config.name} did not get as far as asked in time, it has version {published.version}: {why}",
        metadata={"version": published.version, "missing_workers": ",".join(map(str, missing))},
    )
