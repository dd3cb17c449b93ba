"""What a caller needs of `headrace.parameters`."""
