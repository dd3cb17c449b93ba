"""Reasons of failures that the scheduler decides by: those of errors, and those that it alone gives."""

from headrace import errors

ABORTED = errors.Aborted.reason
CANCELLED = errors.Cancelled.reason
DATA_LOSS = errors.DataLoss.reason
DEADLINE_EXCEEDED = errors.DeadlineExceeded.reason
INTERNAL = errors.Internal.reason
NODE_LOST = errors.NodeLost.reason
NOT_FOUND = errors.NotFound.reason
NOT_PRIMARY = errors.NotPrimary.reason
REPLICA_UNREACHABLE = errors.ReplicaUnreachable.reason
RESOURCE_EXHAUSTED = errors.ResourceExhausted.reason
SERVER_DRAINING = errors.ServerDraining.reason
SHARD_MAP_CHANGED = errors.ShardMapChanged.reason
STALE_EPOCH = errors.StaleEpoch.reason
STORAGE_FULL = errors.StorageFull.reason
TOO_MANY_CALLS = errors.TooManyCalls.reason
UNAVAILABLE = errors.Unavailable.reason

STRAGGLER = "STRAGGLER"  # a worker that was replaced because it was slow
TASK_CRASHED = errors.TASK_CRASHED
TASK_STOPPED = "TASK_STOPPED"  # somebody stopped it on its node, past the scheduler
UNKNOWN = "UNKNOWN"  # another service said no more
