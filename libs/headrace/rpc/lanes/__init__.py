"""Lanes: unary calls between processes of one machine, over a Unix socket in place of HTTP/2.

A gRPC call from Python costs half a millisecond, most of it thread switches inside gRPC. Where that is more than the work itself, a
server offers a lane: its own handlers, behind the same layers (authorization, admission, metrics, traces, errors), reached with one thread
switch each way. See `headrace/types/v1/lane.proto` for what travels, and docs/decisions for why.
"""
