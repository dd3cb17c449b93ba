"""The models a server has, and how they come and go, on the wire."""

from collections.abc import Iterable, Mapping

from headrace.errors import InvalidArgument, PermissionDenied, Unimplemented
from headrace.inference.oip.v2 import repository_pb2 as pb
from headrace.names import check_id, project_of
from headrace.rpc.authorization import current_principal
from headrace_inference.core.catalog import Key, Listing, State
from headrace_inference.models import Models

_Parameters = Mapping[str, pb.ModelRepositoryParameter]


class Repository:
    """Models of the caller's project."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """List them."""
        listings = self._models.listings(current_principal().project)
        return pb.RepositoryIndexResponse(
            models=[_index(one) for one in listings if one.state is State.READY or not request.ready]
        )

    def load(
        self, request: pb.RepositoryModelLoadRequest, timeout_s: float | None
    ) -> pb.RepositoryModelLoadResponse:
        """Load one."""
        _refuse_unknown(request.parameters, ("version", "file", "config"))
        reference = _text(request.parameters, "version")
        if reference:
            _check_project(reference)
        name = check_id(_name(request), "model_name")
        file, config = (_text(request.parameters, parameter) for parameter in ("file", "config"))
        self._models.load(_key(name), reference, file, timeout_s, config=config)
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    def unload(
        self, request: pb.RepositoryModelUnloadRequest, timeout_s: float | None
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload one."""
        _refuse_unknown(request.parameters, ("unload_dependents",))
        name = _name(request)
        self._models.unload(_key(name), timeout_s)
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)


def _key(model: str) -> Key:
    return Key(current_principal().project, model)


def _name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """Read the name where Triton's clients write it, else where KServe's do."""
    return request.model_name or request.repository_name


def _check_project(reference: str) -> None:
    project = project_of(reference, field="version")
    if not current_principal().may_enter(project):
        raise PermissionDenied(
            f"{current_principal().name} has no role in projects/{project}; load a model of your own"
        )


def _refuse_unknown(parameters: Iterable[str], known: Iterable[str]) -> None:
    for name in parameters:
        if name.startswith("file:"):
            raise Unimplemented(
                f"parameter {name!r} would load bytes of which nobody knows where they are from; "
                "make a version of them in the registry, and load that"
            )
        if name not in known:
            raise InvalidArgument(
                f"parameter {name!r} is not known; known are {', '.join(known)}", field="parameters"
            )


def _text(parameters: _Parameters, name: str) -> str:
    if name not in parameters:
        return ""
    if not parameters[name].HasField("string_param"):
        raise InvalidArgument(f"parameter {name!r} must be a string_param", field="parameters")
    return parameters[name].string_param


def _index(listing: Listing) -> pb.RepositoryIndexResponse.ModelIndex:
    return pb.RepositoryIndexResponse.ModelIndex(
        name=listing.key.model,
        version=listing.source.number,
        state=listing.state.value,
        reason=listing.reason,
    )
