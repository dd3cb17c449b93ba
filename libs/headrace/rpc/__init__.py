"""Servers and channels: everything that gRPC needs and no service should have to think about."""
