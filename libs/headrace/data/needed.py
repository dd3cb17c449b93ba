"""Libraries that only some data need."""

import importlib.util

from headrace.errors import FailedPrecondition


def needed(module: str, purpose: str) -> None:
    """Make sure that a library is installed.

    Raises:
        FailedPrecondition: It is not.
    """
    if importlib.util.find_spec(module) is None:
        raise FailedPrecondition(
            f"{purpose} needs {module}, which is not installed; pip install 'headrace[data]' where the service runs"
        )
