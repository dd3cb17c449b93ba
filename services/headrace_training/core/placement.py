"""Where a rank computes, and what ranks sum over: rules alone."""

from collections.abc import Sequence
from typing import Literal

from headrace.errors import FailedPrecondition

Asked = Literal["auto", "cpu", "cuda"]
Backend = Literal["gloo", "nccl"]


def place_for(asked: Asked, seat: int, count: int, why_none: str) -> str:
    """Return what torch calls the device that a rank takes.

    Args:
        seat: The rank's place among those of its machine, from 0.
        count: CUDA devices that the rank's process sees.
        why_none: What there is instead.
    Raises:
        FailedPrecondition: A GPU is asked for, and there is none.
    """
    if asked == "cpu" or (asked == "auto" and not count):
        return "cpu"
    if not count:
        raise FailedPrecondition(
            f"device is cuda, and this node has none: {why_none}; choose a pool whose nodes have GPUs, or ask for auto or cpu"
        )
    return f"cuda:{seat % count}"


def backend_of(marks: Sequence[int]) -> Backend:
    """Return what the ranks of a run sum over: NCCL if each has a GPU of its own, which it insists on, else gloo, by way of the host.

    Args:
        marks: Of each rank's device: 0 for the host, else which GPU it is.
    """
    return "nccl" if all(marks) and len(set(marks)) == len(marks) else "gloo"


def shared_backend(marks: Sequence[int]) -> Backend:
    """Return what ranks work over that hold a part of the model each, as `backend_of`.

    Raises:
        FailedPrecondition: Some have a GPU, and not each has one of its own: parts lie on the host alone, or on GPUs alone.
    """
    backend = backend_of(marks)
    if any(marks) and backend == "gloo":
        own = len(set(marks) - {0})
        raise FailedPrecondition(
            f"the {len(marks)} ranks of a fully sharded run have {own} GPUs; give it as many as ranks (fewer workers, or other nodes), or ask for "
            "device cpu"
        )
    return backend
