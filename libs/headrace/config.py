"""Settings of a service: frozen, documented, read from `HEADRACE_<SERVICE>_*` once, checked all at once.

    class Settings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="HEADRACE_REGISTRY_")
        address: str = "127.0.0.1:8471"
        data_dir: Path = Field(default=Path("data"), description="Folder of the artifacts.")

    settings = load_or_exit(Settings)   # in `__main__`: answers --help, exit code 2 with every mistake
    settings = load(Settings, environ)  # raises ConfigError

Building `Settings(...)` directly reads nothing but its arguments: only `load` looks at the environment.
"""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args, get_origin

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headrace.rpc.addresses import is_loopback, split_address

MIB = 1 << 20


class ServiceSettings(BaseSettings):
    """What every service can be told. Addresses are `host:port`; port 0 takes a free one."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Checked before `address`, which needs it.
    allow_unauthenticated: bool = Field(
        default=False,
        description="Serve on an address that other machines can reach, although everyone may do everything.",
    )
    address: str = Field(
        default="127.0.0.1:0", description="host:port to serve gRPC on; port 0 takes a free one."
    )
    address_file: str = Field(
        default="", description='File to write the real address to once it serves; "" writes none.'
    )
    stop_on_stdin_eof: bool = Field(
        default=False,
        description="Leave, as on SIGTERM, when standard input ends: a supervisor holds the other end, and may be killed.",
    )
    metrics_address: str = Field(
        default="", description='host:port of the Prometheus endpoint; "" turns it off.'
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity to log."
    )
    log_format: Literal["auto", "pretty", "json"] = Field(
        default="auto", description="auto: pretty on a terminal, JSON lines otherwise."
    )
    traces: str = Field(
        default="",
        description='Where spans go: "" nowhere, "file:PATH" as JSON lines, "http://host:4318" by OTLP.',
    )
    max_concurrent_rpcs: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Calls served at a time, open streams included; one more is refused.",
    )
    max_message_bytes: int = Field(
        default=64 * MIB, ge=MIB, le=2048 * MIB - 1, description="Largest message taken or sent, in bytes."
    )
    front_end: Literal["grpcio", "turbo"] = Field(
        default="grpcio",
        description="What speaks HTTP/2: grpcio, or turbo, which needs a tenth of the processor time for a small call.",
    )
    drain_s: float = Field(
        default=10, ge=0, le=3600, description="Seconds that running calls get to finish after SIGTERM."
    )

    @field_validator("address", "metrics_address")
    @classmethod
    def _is_host_and_port(cls, text: str, info: ValidationInfo) -> str:
        if text or info.field_name == "address":
            split_address(text)
        return text

    @field_validator("address")
    @classmethod
    def _is_local_or_allowed(cls, text: str, info: ValidationInfo) -> str:
        if not is_loopback(text) and not info.data.get("allow_unauthenticated"):
            prefix = cls.model_config.get("env_prefix", "")
            raise ValueError(
                f"other machines can reach it and every caller would be admin; use 127.0.0.1, "
                f"or set {prefix}ALLOW_UNAUTHENTICATED=true if the network itself keeps strangers out"
            )
        return text

    @field_validator("traces")
    @classmethod
    def _is_trace_target(cls, text: str) -> str:
        if text and not text.startswith(("file:", "http://", "https://")):
            raise ValueError('use "", "file:PATH" or "http://host:4318"')
        return text

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments only, so that settings in a test never depend on who runs it."""
        return (init_settings,)


@dataclass(frozen=True)
class Mistake:
    """One setting that cannot be used, and what to do about it."""

    variable: str
    value: str | None
    advice: str

    def __str__(self) -> str:
        shown = "is not set" if self.value is None else f"= {self.value!r}"
        return f"{self.variable} {shown}: {self.advice}"


class ConfigError(Exception):
    """All mistakes in the configuration of a process."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


Settings = TypeVar("Settings", bound=ServiceSettings)


def load(cls: type[Settings], environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from environment variables.

    Args:
        environ: Variables and values; the process's own if None. Values of list settings are separated by commas.
    Raises:
        ConfigError: Something is wrong; it lists everything that is.
    """
    environ = os.environ if environ is None else environ
    names = {_variable(cls, name): name for name in cls.model_fields}
    texts = {name: environ[variable] for variable, name in names.items() if variable in environ}
    mistakes = list(_unknown_variables(cls, environ, names))
    try:
        settings = cls.model_validate(
            {name: _split(cls.model_fields[name], text) for name, text in texts.items()}
        )
    except ValidationError as invalid:
        mistakes += [_mistake(cls, error, texts) for error in invalid.errors()]
    else:
        if not mistakes:
            return settings
    raise ConfigError(mistakes)


def load_or_exit(cls: type[Settings]) -> Settings:
    """Read the settings of this process, as the first act of a `__main__`.

    `--help` prints the table of settings and ends the process; mistakes are printed and end it with status 2.
    """
    arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(describe(cls))
        sys.exit(0)
    if arguments:
        sys.stderr.write(
            f"unknown argument {arguments[0]!r}; settings are environment variables, see --help\n"
        )
        sys.exit(2)
    try:
        return load(cls)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def describe(cls: type[ServiceSettings]) -> str:
    """Return every setting as `VARIABLE = default`, what it means, and its bounds, in the order of the class."""
    return "".join(_describe(cls, name, field) for name, field in cls.model_fields.items())


def _describe(cls: type[ServiceSettings], name: str, field: FieldInfo) -> str:
    default = (
        "required" if field.is_required() else f"= {_shown(field.get_default(call_default_factory=True))}"
    )
    bounds = ", ".join(_bounds(field))
    meaning = " ".join(part for part in (_description(cls, name), f"({bounds})" if bounds else "") if part)
    return f"{_variable(cls, name)} {default}\n    {meaning}\n"


def _description(cls: type[ServiceSettings], name: str) -> str:
    """Find what the setting means; a subclass that only changes a default inherits the text."""
    for ancestor in cls.__mro__:
        if issubclass(ancestor, ServiceSettings) and name in ancestor.model_fields:
            description = ancestor.model_fields[name].description
            if description:
                return description
    return ""


def _bounds(field: FieldInfo) -> Iterator[str]:
    for words, symbol in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        for constraint in field.metadata:
            if hasattr(constraint, words):
                yield f"{symbol} {getattr(constraint, words)}"
    if get_origin(field.annotation) is Literal:
        yield " | ".join(map(str, get_args(field.annotation)))


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(str, value)) or '""'
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _variable(cls: type[ServiceSettings], name: str) -> str:
    return f"{cls.model_config.get('env_prefix', '')}{name}".upper()


def _split(field: FieldInfo, text: str) -> object:
    """Give a list setting its items; every other value is text that pydantic reads."""
    if get_origin(field.annotation) in (list, tuple, set, frozenset):
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _unknown_variables(
    cls: type[ServiceSettings], environ: Mapping[str, str], known: Mapping[str, str]
) -> Iterator[Mistake]:
    prefix = _variable(cls, "")
    for variable in sorted(environ):
        if prefix and variable.startswith(prefix) and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1)
            advice = f"did you mean {close[0]}?" if close else "run with --help to see all settings"
            yield Mistake(variable, environ[variable], f"no such setting; {advice}")


def _mistake(cls: type[ServiceSettings], error: ErrorDetails, texts: Mapping[str, str]) -> Mistake:
    # A rule about several settings belongs to the first of them that was set.
    name = str(error["loc"][0]) if error["loc"] else next(filter(error["msg"].__contains__, texts), "")
    advice = error["msg"].removeprefix("Value error, ")
    return Mistake(_variable(cls, name), texts.get(name), f"{advice[:1].lower()}{advice[1:]}")
