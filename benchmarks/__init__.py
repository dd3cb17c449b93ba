"""One command per claim of speed: `python -m benchmarks.<name>`, or all by `make bench`."""
