"""What belongs to the call that this thread serves: its id and its caller."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

from headrace.errors import Unauthenticated

REQUEST_ID_METADATA = "headrace-request-id"
PROJECT_METADATA = "headrace-project"


class Role(Enum):
    """What a caller may do; the numbers are those of `headrace.types.v1.Role`."""

    VIEWER = 1
    EDITOR = 2
    ADMIN = 3
    NODE = 4


_INCLUDED = {
    Role.VIEWER: {Role.VIEWER},
    Role.EDITOR: {Role.VIEWER, Role.EDITOR},
    Role.ADMIN: {Role.VIEWER, Role.EDITOR, Role.ADMIN},
    Role.NODE: {Role.NODE},
}


@dataclass(frozen=True)
class Principal:
    """Who calls.

    `project` is where names without a project belong (the Open Inference Protocol's `model_name`).
    `every_project` lets the roles count in all projects, not only in that one.
    """

    name: str
    project: str
    roles: frozenset[Role]
    every_project: bool = False

    def has(self, role: Role) -> bool:
        """Tell whether one of the roles includes `role`."""
        return any(role in _INCLUDED[own] for own in self.roles)

    def may_enter(self, project: str) -> bool:
        """Tell whether the roles count in `project`."""
        return self.every_project or project == self.project


# Set by the server before a handler runs. gRPC gives every call a context of its own, generators included.
request_id: ContextVar[str] = ContextVar("headrace_request_id", default="")
principal: ContextVar[Principal | None] = ContextVar("headrace_principal", default=None)


def current_principal() -> Principal:
    """Return the caller of the call that this thread serves.

    Raises:
        Unauthenticated: No call is being served here, or it is one that is open to strangers.
    """
    caller = principal.get()
    if caller is None:
        raise Unauthenticated("there is no caller here: only a handler of a call has one")
    return caller


Metadata = Iterable[tuple[str, str | bytes]]


def metadata_value(metadata: Metadata, key: str) -> str:
    """Return the first text value of `key`, or an empty string."""
    return next((value for name, value in metadata if name == key and isinstance(value, str)), "")
