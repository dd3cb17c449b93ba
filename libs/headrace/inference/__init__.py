"""What a caller needs of `headrace.inference`."""
