"""What belongs to the call that this thread serves: its id and its caller."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Protocol

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
        return role in self._included

    @cached_property
    def _included(self) -> frozenset[Role]:
        return frozenset(role for own in self.roles for role in _INCLUDED[own])

    def may_enter(self, project: str) -> bool:
        """Tell whether the roles count in `project`."""
        return self.every_project or project == self.project


class Served(Protocol):
    """The call that is served, as far as it matters beyond the server."""

    @property
    def method(self) -> str:
        """`/package.Service/Method`."""

    @property
    def principal(self) -> Principal | None:
        """Who calls; None before that is known, or if the call is open to strangers."""

    @property
    def request_id(self) -> str:
        """The id that the caller gave, or one that is made now."""

    @property
    def peer(self) -> str:
        """Where the caller is, as gRPC names it."""


# Set by the server before a handler runs, in a context that is the call's own, generators included.
served: ContextVar[Served | None] = ContextVar("headrace_served", default=None)


def current_request_id() -> str:
    """Return the id of the call that this thread serves; empty if it serves none."""
    call = served.get()
    return call.request_id if call else ""


def current_principal() -> Principal:
    """Return the caller of the call that this thread serves.

    Raises:
        Unauthenticated: No call is being served here, or it is one that is open to strangers.
    """
    call = served.get()
    if call is None or call.principal is None:
        raise Unauthenticated("there is no caller here: only a handler of a call has one")
    return call.principal


Metadata = Iterable[tuple[str, str | bytes]]


def metadata_value(metadata: Metadata, key: str) -> str:
    """Return the first text value of `key`, or an empty string."""
    for name, value in metadata:
        if name == key and isinstance(value, str):
            return value
    return ""
