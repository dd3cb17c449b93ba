"""Messages and stubs of `headrace.scheduler.v1`; `make protos` writes them."""
