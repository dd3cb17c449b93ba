"""Messages and stubs of `headrace.training.v1`; `make protos` writes them."""
