"""What every node can be told beside what every service can: who schedules it, and how it is known there."""

import os
import re
import socket
import uuid

from pydantic import Field, ValidationInfo, field_validator

from headrace.config import ServiceSettings
from headrace.errors import InvalidArgument
from headrace.names import NodeName, PoolName, check_id
from headrace.rpc.addresses import join_address, split_address
from headrace.scheduler.v1 import nodes_pb2

INCARNATION = uuid.uuid4().hex  # one per process: what a process of the same node held before is lost with it

_EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound to


class NodeSettings(ServiceSettings):
    """Settings of a service whose processes are nodes."""

    scheduler_address: str = Field(
        "",
        description='host:port of the scheduler to attach to; "" works alone, for callers who start tasks by hand.',
    )
    registry_address: str = Field("", description='host:port of the registry; "" works without one.')
    node_id: str = Field(
        "", description='Name of the node, the same after a restart; "" means <service>-<hostname>.'
    )
    pool: str = Field("default", description="Id of the pool the node is in.")
    advertise_address: str = Field(
        "", description='host:port where other services reach this one; "" means the address it serves on.'
    )
    slots: int = Field(1, ge=1, le=1024, description="Tasks (stores, models) it takes at a time.")

    @field_validator("scheduler_address", "registry_address", "advertise_address")
    @classmethod
    def _is_reachable_address(cls, text: str) -> str:
        if text and split_address(text)[1] == 0:
            raise ValueError("port 0 cannot be called; name the port it serves on")
        return text

    @field_validator("node_id", "pool")
    @classmethod
    def _is_id(cls, text: str, info: ValidationInfo) -> str:
        try:
            return check_id(text, str(info.field_name)) if text or info.field_name == "pool" else text
        except InvalidArgument as error:
            raise ValueError(error.message) from None

    def hello(self, service: str, kind: nodes_pb2.NodeKind.ValueType, bound_address: str) -> nodes_pb2.Hello:
        """Say who this process is.

        Args:
            service: "training", ...: begins the default name.
            kind: What the node does.
            bound_address: host:port the server got.
        """
        host = socket.gethostname()
        return nodes_pb2.Hello(
            node=str(NodeName(self.node_id or default_node_id(service, host))),
            incarnation=INCARNATION,
            kind=kind,
            address=self.advertise_address or reachable(bound_address, host),
            pool=str(PoolName(self.pool)),
            slots=self.slots,
            labels={"host": host, "pid": str(os.getpid())},
        )


def default_node_id(service: str, host: str) -> str:
    """Make an id of `<service>-<host>`: at most 63 of the characters an id may have."""
    return re.sub(r"[^a-z0-9._-]", "-", f"{service}-{host}".lower())[:63].rstrip("._-")


def reachable(bound_address: str, host: str) -> str:
    """Return the address others can call: a server on every interface is reached by the name of its host."""
    bound_host, port = split_address(bound_address)
    return join_address(host if bound_host in _EVERY_INTERFACE else bound_host, port)
