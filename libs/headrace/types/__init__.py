"""What a caller needs of `headrace.types`."""
