"""How a process that does work joins a scheduler: its settings, and the agent that keeps its lease."""

from headrace.node.agent import Agent
from headrace.node.settings import NodeSettings

__all__ = ["Agent", "NodeSettings"]
