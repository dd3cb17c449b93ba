"""What the scheduler hears of the models."""

from collections.abc import Iterable

from headrace.scheduler.v1.nodes_pb2 import ServedModel
from headrace_inference.core.catalog import Listing, State


def report(listings: Iterable[Listing]) -> list[ServedModel]:
    """Describe the models to the scheduler, those that failed to load included."""
    return [
        ServedModel(
            project=one.key.project,
            model=one.key.model,
            version=str(one.source.version),
            file=one.source.file,
            ready=one.state is State.READY,
            error=one.reason,
        )
        for one in listings
    ]
