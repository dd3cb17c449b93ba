"""What a caller needs of `headrace.training`."""
