"""The registry: names, versions and lineage of models, and the bytes behind them."""
