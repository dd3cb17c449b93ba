"""How a process that does work joins a scheduler: its settings, the agent that keeps its lease, and the way out."""

from headrace.node.agent import Agent
from headrace.node.joining import join, join_with_tasks
from headrace.node.settings import NodeSettings

__all__ = ["Agent", "NodeSettings", "join", "join_with_tasks"]
