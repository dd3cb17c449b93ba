"""Optimizers over flat vectors: the same on a parameter shard and in a rank that applies its gradients itself.

bounds.py     the check of every setting
config.py     their kinds and settings
schedule.py   the learning rate as a function of the step
clipping.py   the factor that bounds a gradient's norm
fused.py      the updates, by torch's fused kernels
wire.py       settings to and from `headrace.parameters.v1.Optimizer`
row_*.py      the same for the rows of a table; row_lookup.py finds rows without a store
table_*.py    what a table is told when it is made
compiled.py   loops that numba compiles
embedding.py  a table as a layer of a model
"""
