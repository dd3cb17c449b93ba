"""What is traced and logged, on the wire. Who asks is a viewer; who changes a model's traces an editor; who changes the server an admin."""

from collections.abc import Mapping

from headrace.errors import InvalidArgument, PermissionDenied
from headrace.inference.oip.v2 import settings_pb2 as pb
from headrace.rpc.authorization import Role, current_principal
from headrace.telemetry.logs import SEVERITIES, write_severities, written_severities
from headrace_inference.core.catalog import Key
from headrace_inference.core.trace_settings import TraceSettings

# Of the log settings: which severity each switches.
_SWITCHES = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_VERBOSE = "log_verbose_level"
# What cannot be changed while the server runs: HEADRACE_INFERENCE_LOG_FORMAT decides, and lines go to standard error.
_FIXED = {"log_format": "ISO8601", "log_file": ""}


def change_traces(
    settings: TraceSettings, key: Key | None, request: pb.TraceSettingRequest
) -> pb.TraceSettingResponse:
    """Change and tell what is traced, of one model or (None) of the server.

    Raises:
        PermissionDenied: The caller may not change it.
        InvalidArgument: As `TraceSettings.change`.
    """
    if request.settings:
        _require(Role.ADMIN if key is None else Role.EDITOR, "trace settings")
    now = settings.change(key, {name: tuple(value.value) for name, value in request.settings.items()})
    response = pb.TraceSettingResponse()
    for name, values in now.items():
        response.settings[name].value.extend(values)
    return response


def change_logs(request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
    """Change and tell what is logged.

    Raises:
        PermissionDenied: The caller may not change it.
        InvalidArgument: A setting is not known, cannot be changed, or has a value of another type; nothing is changed.
    """
    if request.settings:
        _require(Role.ADMIN, "log settings")
        write_severities(_severities(request.settings))
    now = written_severities()
    response = pb.LogSettingsResponse()
    for name, severity in _SWITCHES.items():
        response.settings[name].bool_param = severity in now
    response.settings[_VERBOSE].uint32_param = int("debug" in now)
    for name, text in _FIXED.items():
        response.settings[name].string_param = text
    return response


def _severities(settings: Mapping[str, pb.LogSettingsRequest.SettingValue]) -> list[str]:
    wished = {severity: severity in written_severities() for severity in SEVERITIES}
    for name, value in settings.items():
        if name in _SWITCHES:
            wished[_SWITCHES[name]] = bool(_value(name, value, "bool_param"))
        elif name == _VERBOSE:
            wished["debug"] = bool(_value(name, value, "uint32_param"))
        elif name not in _FIXED:
            known = ", ".join((*_SWITCHES, _VERBOSE, *_FIXED))
            raise InvalidArgument(f"log setting {name!r} is not known; known are {known}", field="settings")
        elif _value(name, value, "string_param") != _FIXED[name]:
            raise InvalidArgument(
                f"log setting {name!r} is fixed when the server starts; it is {_FIXED[name]!r}",
                field="settings",
            )
    return [severity for severity, is_wished in wished.items() if is_wished]


def _value(name: str, value: pb.LogSettingsRequest.SettingValue, kind: str) -> bool | int | str:
    given = value.WhichOneof("parameter_choice")
    if given != kind:
        raise InvalidArgument(f"log setting {name!r} must be a {kind}, not {given}", field="settings")
    found: bool | int | str = getattr(value, kind)
    return found


def _require(role: Role, what: str) -> None:
    caller = current_principal()
    if not caller.has(role):
        raise PermissionDenied(f"{caller.name} lacks the role {role.name} that changing {what} needs")
