"""Messages and stubs of `headrace.optimization.v1`; `make protos` writes them."""
