"""The Python front: train, optimize, deploy and predict through one address.

    with headrace.connect("127.0.0.1:8470") as client:
        job = client.wait(client.train("my_model.py", "digits", steps=400, batch_size=64, workers=2, shards=2))
        client.deploy("digits", job.result.version)
        logits = client.predict("digits", {"image": images})["logits"]

What people say, `digits`, `digits@stable` or `digits/3`, is read in `headrace.client.naming`; requests are built in
`headrace.client.requests` and `headrace.client.training`. The two clients only call and wait.
"""

from __future__ import annotations

from headrace.client.aio import AsyncClient
from headrace.client.sync import Client

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]

ADDRESS = "127.0.0.1:8470"
PROJECT = "default"


def connect(address: str = ADDRESS, project: str = PROJECT) -> Client:
    """Return a client of the headrace whose scheduler is at `address`; it connects with its first call.

    Args:
        address: `host:port` of the scheduler.
        project: Where all names belong that say no project.
    Raises:
        InvalidArgument: The address or the project cannot be one.
    """
    return Client(address, project)


def connect_async(address: str = ADDRESS, project: str = PROJECT) -> AsyncClient:
    """Return the asyncio twin of `connect`'s client; call it inside a running event loop."""
    return AsyncClient(address, project)
