"""Tables: rows by 64-bit key, in memory that grows with them.

config.py        what a table is told when it is made
growing.py       memory that grows where it is
kernels.py       loops over keys and rows, compiled
hash_index.py    which slot the row of a key is in
memory.py        the slots: values, optimizer state, keys, when each was touched
grouping.py      keys that are named more than once in a call
evictions.py     which keys were evicted, for snapshots that have only what changed
former.py        rows as they were before the last update
table.py         rows are pulled, updated, evicted
push.py          gradients of rows
held.py          the gradient of a complete step that waits to be clipped
turns.py         whose push takes effect when, who waits for whom
shard.py         one shard of a table: rows that change by the store's consistency
declaration.py   what a table is told, as facts of a snapshot
state.py         all of it as named arrays, for snapshots
part.py          what of a table moves to another shard
cutting.py       rows that go to other shards, by the arcs of their keys
chain.py         a state in parts, each with what changed since the one before
"""
