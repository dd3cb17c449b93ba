"""Messages and stubs of `headrace.registry.v1`; `make protos` writes them."""
