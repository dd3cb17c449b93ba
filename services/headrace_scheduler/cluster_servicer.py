"""Pools and nodes on the wire."""

from importlib.metadata import version

import grpc
from google.protobuf.empty_pb2 import Empty

from headrace.errors import InvalidArgument, NotFound
from headrace.names import NodeName, PoolName, check_id
from headrace.paging import PageRequest
from headrace.scheduler.v1 import cluster_pb2, cluster_pb2_grpc
from headrace_scheduler.core.events import NodeDrained, PoolCreated, PoolDeleted
from headrace_scheduler.core.nodes import Node, Pool
from headrace_scheduler.core.tables import Tables
from headrace_scheduler.engine import Engine, Repeatable
from headrace_scheduler.wire import node_message, pool_message

MAX_DESCRIPTION = 4096
NO_PROJECT = ""  # pools and nodes belong to none


class ClusterServicer(cluster_pb2_grpc.ClusterServicer):
    """Translates."""

    def __init__(self, engine: Engine, registry_address: str) -> None:
        self._engine = engine
        self._registry_address = registry_address

    def GetCluster(
        self, request: cluster_pb2.GetClusterRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ClusterInfo:
        """Say where the services are."""
        return cluster_pb2.ClusterInfo(
            registry_address=self._registry_address, server_version=version("headrace")
        )

    def CreatePool(
        self, request: cluster_pb2.CreatePoolRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.Pool:
        """Make a pool."""
        name = str(PoolName(check_id(request.pool_id, "pool_id")))
        if len(request.pool.description) > MAX_DESCRIPTION:
            raise InvalidArgument(
                f"pool.description has {len(request.pool.description)} characters; at most {MAX_DESCRIPTION} are taken",
                field="pool.description",
            )
        body = request.SerializeToString(deterministic=True)
        answer = self._engine.request(
            PoolCreated(Pool(name, request.pool.description, self._engine.now())),
            Repeatable("CreatePool", NO_PROJECT, request.request_id, body),
            lambda tables: pool_message(tables.pools[name]).SerializeToString(),
        )
        return cluster_pb2.Pool.FromString(answer)

    def GetPool(self, request: cluster_pb2.GetPoolRequest, context: grpc.ServicerContext) -> cluster_pb2.Pool:
        """Return one pool."""
        name = str(PoolName.parse(request.name))
        pool = self._engine.read(lambda tables: tables.pools.get(name))
        if pool is None:
            raise NotFound(f"there is no {name}; list the pools to see which there are")
        return pool_message(pool)

    def ListPools(
        self, request: cluster_pb2.ListPoolsRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ListPoolsResponse:
        """List the pools, by name."""
        wanted = PageRequest.parse(request.page_size, request.page_token, "ListPools")
        rows = self._engine.read(lambda tables: sorted(tables.pools.values(), key=lambda pool: pool.name))
        page = wanted.page_of_all(rows, lambda pool: (pool.name,))
        return cluster_pb2.ListPoolsResponse(
            pools=[pool_message(pool) for pool in page.items], next_page_token=page.next_page_token
        )

    def DeletePool(self, request: cluster_pb2.DeletePoolRequest, context: grpc.ServicerContext) -> Empty:
        """Delete a pool."""
        name = str(PoolName.parse(request.name))
        body = request.SerializeToString(deterministic=True)
        self._engine.request(
            PoolDeleted(name), Repeatable("DeletePool", NO_PROJECT, request.request_id, body), lambda _: b""
        )
        return Empty()

    def GetNode(self, request: cluster_pb2.GetNodeRequest, context: grpc.ServicerContext) -> cluster_pb2.Node:
        """Return one node."""
        name = str(NodeName.parse(request.name))
        return self._engine.read(lambda tables: node_message(tables, _node(tables, name)))

    def ListNodes(
        self, request: cluster_pb2.ListNodesRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ListNodesResponse:
        """List the nodes, by name."""
        wanted = PageRequest.parse(request.page_size, request.page_token, "ListNodes")
        rows = self._engine.read(
            lambda tables: [node_message(tables, tables.nodes[name]) for name in sorted(tables.nodes)]
        )
        page = wanted.page_of_all(rows, lambda node: (node.name,))
        return cluster_pb2.ListNodesResponse(nodes=page.items, next_page_token=page.next_page_token)

    def DrainNode(
        self, request: cluster_pb2.DrainNodeRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.Node:
        """Give a node no new work."""
        return self._set_drained(request.name, drained=True)

    def ResumeNode(
        self, request: cluster_pb2.ResumeNodeRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.Node:
        """Give a drained node work again."""
        return self._set_drained(request.name, drained=False)

    def _set_drained(self, text: str, *, drained: bool) -> cluster_pb2.Node:
        name = str(NodeName.parse(text))
        self._engine.submit(NodeDrained(name, drained))
        return self._engine.read(lambda tables: node_message(tables, _node(tables, name)))


def _node(tables: Tables, name: str) -> Node:
    if name not in tables.nodes:
        raise NotFound(f"there is no {name}; list the nodes to see which there are")
    return tables.nodes[name]
