"""Whether there is memory for a store: in the process, and in what its project may have of it."""

from headrace.errors import QuotaExceeded
from headrace.names import StoreName


def check_process(name: StoreName, needed: int, taken: int, most: int) -> None:
    """Raise QuotaExceeded if a store needs more bytes than the others leave."""
    if taken + needed > most:
        raise QuotaExceeded(
            f"{name} needs {needed} bytes, the other stores have {taken} of {most}; use more shards, "
            "delete a store or raise HEADRACE_PARAMETERS_MAX_BYTES",
            metadata={"needed_bytes": needed, "free_bytes": most - taken},
        )


def check_project(name: StoreName, needed: int, free: int) -> None:
    """Raise QuotaExceeded if a store needs more bytes than its project has left."""
    if needed > free:
        raise QuotaExceeded(
            f"{name} needs {needed} bytes, and project {name.project!r} has {free} left in this process; use more shards, delete "
            "a store of the project, or ask the operator for more (HEADRACE_PARAMETERS_PROJECT_QUOTAS)",
            metadata={
                "subject": f"projects/{name.project}",
                "quota": "max_bytes",
                "needed_bytes": needed,
                "free_bytes": free,
            },
        )
