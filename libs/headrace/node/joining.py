"""How a service process is a node: attached while it serves, and gone in good order.

process.serve(..., on_listening=lambda address: join_with_tasks(
    process, settings, settings.hello("training", NODE_KIND_TRAINING, address), tasks))
"""

import threading
from collections.abc import Callable

from headrace.node.agent import Agent
from headrace.node.settings import NodeSettings
from headrace.rpc.process import Process
from headrace.scheduler.v1.nodes_pb2 import Hello, Report
from headrace.tasks.service import TaskService


def join(process: Process, agent: Agent, leave: Callable[[], object]) -> None:
    """Attach to the scheduler, if the agent has one, for as long as the process lives.

    Args:
        leave: Called once, in a thread of its own, when the process begins to stop and its server still drains: says
            goodbye and ends what runs. The agent is closed only after it has returned.
    """
    agent.start()

    def wait_and_leave() -> None:
        process.stopping.wait()
        leave()

    leaving = threading.Thread(target=wait_and_leave, name="leave", daemon=True)
    leaving.start()
    process.closing(agent.close)
    process.closing(leaving.join)


def join_with_tasks(process: Process, settings: NodeSettings, hello: Hello, tasks: TaskService) -> None:
    """Do as `join` for a node whose work are tasks: report them, and end them when the process leaves."""
    agent = Agent(
        settings.scheduler_address,
        hello,
        report=lambda: Report(tasks=tasks.tasks()),
        forget=tasks.forget,
    )
    tasks.on_change(agent.changed)

    def leave() -> None:
        agent.leaving()
        # While the server still drains: who watches the tasks sees how they end.
        tasks.close(settings.drain_s)

    join(process, agent, leave)
