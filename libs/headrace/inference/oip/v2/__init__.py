"""Messages and stubs of `headrace.inference.oip.v2`; `make protos` writes them."""
