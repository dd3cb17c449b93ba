"""What a caller needs of `headrace.scheduler`."""
