"""What a caller needs of `headrace.optimization`."""
