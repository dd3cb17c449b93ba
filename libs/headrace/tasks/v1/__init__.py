"""Messages and stubs of `headrace.tasks.v1`; `make protos` writes them."""
