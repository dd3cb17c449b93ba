"""Messages and stubs of `headrace.types.v1`; `make protos` writes them."""
