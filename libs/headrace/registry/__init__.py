"""What a caller needs of `headrace.registry`."""
