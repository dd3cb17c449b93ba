"""The one authorization point: who calls, what the rpc demands, and whether that is given.

An rpc declares its rule in the proto, as the option `headrace.types.v1.access`; for protos that are not ours the server
gets a table. An rpc without a rule is refused to everyone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool

from headrace import names
from headrace.errors import InvalidArgument, PermissionDenied
from headrace.rpc import context
from headrace.rpc.context import Principal, Role, current_principal
from headrace.rpc.layers import Call
from headrace.types.v1 import access_pb2

__all__ = [
    "Authorization",
    "Principal",
    "Role",
    "Rule",
    "current_principal",
    "local_user",
    "undeclared_methods",
]

DEFAULT_PROJECT = "default"
LOCAL_USER = "local"  # the name of everybody where nobody has to say who calls


@dataclass(frozen=True)
class Rule:
    """What an rpc demands.

    `resource_field` is the field of the (first) request that holds a name below `projects/{project}/`; empty when the
    rpc is not about one project.
    """

    role: Role
    resource_field: str = ""


Authenticate = Callable[[Call], Principal]


def local_user(call: Call) -> Principal:
    """Take the caller for the user of this machine, who may do everything: how a server on loopback sees it."""
    return _local(call.metadata(context.PROJECT_METADATA) or DEFAULT_PROJECT)


@lru_cache(1024)
def _local(project: str) -> Principal:
    names.check_id(project, context.PROJECT_METADATA)
    return Principal(LOCAL_USER, project, frozenset({Role.ADMIN, Role.NODE}), every_project=True)


class Authorization:
    """The gate that lets a call through or refuses it.

    Args:
        rules: Rules by `/package.Service/Method`, for services whose protos declare none.
        pools: Where descriptors are looked for after the default pool.
        authenticate: Who calls; may raise `Unauthenticated`.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule] | None = None,
        pools: Sequence[DescriptorPool] = (),
        authenticate: Authenticate = local_user,
    ) -> None:
        self._rules: dict[str, Rule | None] = dict(rules or {})
        self._pools = (Default(), *pools)
        self._authenticate = authenticate

    def enter(self, call: Call) -> None:
        """Let the caller in, as `current_principal()`.

        Raises:
            PermissionDenied: The rpc declares no rule, or the caller lacks the role or the project.
            InvalidArgument: The request names no project where it must, and the caller may not enter every one.
        """
        caller = self._authenticate(call)
        _check(caller, self._rule(call.method), call)
        call.principal = caller

    def leave(self, call: Call) -> None:
        """Do nothing."""

    def _rule(self, method: str) -> Rule:
        if method not in self._rules:
            self._rules[method] = next(
                (rule for pool in self._pools if (rule := _declared(method, pool))), None
            )
        rule = self._rules[method]
        if rule is None:
            raise PermissionDenied(f"{method.lstrip('/')} declares no access rule, so nobody may call it")
        return rule


def _check(caller: Principal, rule: Rule, call: Call) -> None:
    if not caller.has(rule.role):
        rpc = call.method.lstrip("/")
        raise PermissionDenied(f"{caller.name} lacks the role {rule.role.name} that {rpc} needs")
    if not rule.resource_field:
        return
    first = call.first_request
    if first is None:
        return  # A stream that ended before its first message asks for nothing.
    try:
        project = names.project_of(getattr(first, rule.resource_field), field=rule.resource_field)
    except InvalidArgument:
        if caller.every_project:
            return  # There is nothing to keep this caller from, and the handler knows the whole form of the name it wants.
        raise
    if not caller.may_enter(project):
        raise PermissionDenied(
            f"{caller.name} has no role in projects/{project}; ask its admin for {rule.role.name}"
        )


def _declared(method: str, pool: DescriptorPool) -> Rule | None:
    """Read the rule off the descriptor of `/package.Service/Method`."""
    service, _, name = method.lstrip("/").rpartition("/")
    try:
        return _rule_of(pool.FindServiceByName(service).methods_by_name[name])
    except KeyError:
        return None


def _rule_of(method: MethodDescriptor) -> Rule | None:
    access = method.GetOptions().Extensions[access_pb2.access]
    if access.role == access_pb2.ROLE_UNSPECIFIED:
        return None
    return Rule(Role(access.role), access.resource_field)


def undeclared_methods(services: Iterable[ServiceDescriptor]) -> list[str]:
    """List the rpcs that nobody could call: no rule, or one whose field their request does not have."""
    methods = [method for service in services for method in service.methods]
    return [method.full_name for method in methods if not _is_declared(method)]


def _is_declared(method: MethodDescriptor) -> bool:
    rule = _rule_of(method)
    return rule is not None and (
        not rule.resource_field or rule.resource_field in method.input_type.fields_by_name
    )
