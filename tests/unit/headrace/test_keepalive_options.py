"""Pings that notice a frozen peer must not be taken for an attack."""

from headrace.rpc.channel import MAX_MESSAGE_BYTES, channel_options
from headrace.rpc.server import server_options


def test_a_server_lets_its_clients_ping_as_often_as_they_do_and_counts_no_strikes() -> None:
    client = dict(channel_options(MAX_MESSAGE_BYTES))
    server = dict(server_options(MAX_MESSAGE_BYTES))
    asked, allowed = (
        client["grpc.keepalive_time_ms"],
        server["grpc.http2.min_recv_ping_interval_without_data_ms"],
    )
    assert isinstance(asked, int)
    assert allowed < asked
    assert server["grpc.keepalive_permit_without_calls"] == 1
    assert server["grpc.http2.max_ping_strikes"] == 0
