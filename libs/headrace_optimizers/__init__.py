"""Optimizers over flat vectors: the same on a parameter shard and in a rank that applies its gradients itself.

config.py   their kinds and settings
fused.py    the updates, by torch's fused kernels
wire.py     settings to and from `headrace.parameters.v1.Optimizer`
"""
