"""Ports for processes that are told theirs before they listen."""

import socket

from headrace.rpc.ports import free_port, ports_beside


def test_ports_are_chosen_beside_those_that_the_system_gives_out() -> None:
    assert ports_beside(range(32_768, 61_000)) == range(10_240, 32_768)
    assert ports_beside(range(1_024, 50_000)) == range(50_000, 65_536)
    assert not ports_beside(range(1_024, 65_536))


def test_each_is_free_and_another_one() -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == len(ports)
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
