"""Nodes for people."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.cli.views.table import Table
from headrace.cli.views.values import NOTHING, moment, word
from headrace.client.naming import short
from headrace.scheduler.v1.cluster_pb2 import Node, NodeState
from headrace.scheduler.v1.nodes_pb2 import NodeKind


def nodes_table(nodes: Sequence[Node]) -> Table:
    """Return nodes, one per row."""
    rows = [
        [
            short(node.name),
            word(NodeKind, node.kind, "NODE_KIND_"),
            word(NodeState, node.state, "NODE_STATE_"),
            short(node.pool),
            node.address,
            f"{len(node.models) or len(node.work)}/{node.slots}",
            ", ".join([*node.models] or [short(name) for name in node.work]) or NOTHING,
            moment(node.heartbeat_time),
        ]
        for node in nodes
    ]
    columns = ["node", "kind", "state", "pool", "address", ">slots", "work", "last heard of"]
    return Table(columns, rows, "no nodes are attached; `headrace up` starts some on this machine")
