"""Messages and stubs of `headrace.parameters.v1`; `make protos` writes them."""
