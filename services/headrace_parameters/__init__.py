"""The parameter store: shards of a model's weights, with their optimizer."""
