"""From the `Program` message of a request to the user's Python object, if the operator allows it.

check_allowed(request.program, allowed_modules=["headrace_examples"], allow_archives=False)   # in the service
program = load_program(request.program, ..., fetch=registry.download_bytes)                   # in the task's process
"""

import importlib
import inspect
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf.json_format import MessageToDict

from headrace.errors import InvalidArgument, ProgramNotAllowed
from headrace.program import Goal, Program
from headrace.program.archive import unpack
from headrace.types.v1.program_pb2 import Program as ProgramMessage

_METHODS = ("model", "loss", "data", "metrics")


def check_allowed(message: ProgramMessage, *, allowed_modules: Sequence[str], allow_archives: bool) -> None:
    """Check what can be checked without running anything.

    Args:
        allowed_modules: Modules and packages whose programs may run; a package stands for all below it.
        allow_archives: Whether uploaded sources may run.
    Raises:
        InvalidArgument: The message names no program.
        ProgramNotAllowed: It names one that may not run here.
    """
    module, _ = _split(message)
    if message.HasField("archive"):
        if not allow_archives:
            raise ProgramNotAllowed(
                "this node runs no uploaded archives; name a program of an installed package, or ask the operator to set "
                "ALLOW_ARCHIVES=true for it"
            )
    elif not is_allowed(module, allowed_modules):
        shown = ", ".join(allowed_modules) or "none"
        raise ProgramNotAllowed(
            f"programs of module {module!r} may not run on this node, only those of: {shown}; ask the operator to add it "
            f"to ALLOWED_PROGRAMS, or choose another program",
            metadata={"module": module},
        )


def is_allowed(module: str, allowed_modules: Sequence[str]) -> bool:
    """Tell whether a module is one of those, or below one."""
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules)


def load_program(
    message: ProgramMessage,
    *,
    allowed_modules: Sequence[str],
    allow_archives: bool,
    fetch: Callable[[str], bytes],
) -> Program:
    """Import the program and make it. Runs the user's code; an archive's sources stay importable in this process.

    Args:
        allowed_modules, allow_archives: As in `check_allowed`, which is called first.
        fetch: Returns the bytes of an artifact by its name.
    Raises:
        ProgramNotAllowed: The operator does not allow it.
        InvalidArgument: There is no such module or attribute, the config does not fit, or the object is no program.
        Exception: Whatever the user's code raises.
    """
    check_allowed(message, allowed_modules=allowed_modules, allow_archives=allow_archives)
    module_name, attribute = _split(message)
    if message.HasField("archive"):
        module = _import_unpacked(module_name, fetch(message.archive.artifact))
    else:
        module = _import(module_name)
    found = _attribute(module, attribute)
    config = {key: _as_integer(value) for key, value in MessageToDict(message.config).items()}
    return _check_program(_make(found, attribute, config), f"{module_name}:{attribute}")


def load_attribute(name: str, config: Mapping[str, Any] | None = None) -> Program:
    """Make a program of an installed package in this process, for a caller who chose it.

    Args:
        name: `module:attribute`.
        config: Keyword arguments for a class or a function.
    Raises:
        InvalidArgument: As in `load_program`.
    """
    return _check_program(load_object(name, config or {}), name)


def load_object(name: str, config: Mapping[str, Any]) -> object:
    """Import what is named `module:attribute` and make it; runs the user's code.

    Raises:
        InvalidArgument: As in `load_program`.
        Exception: Whatever the user's code raises.
    """
    module, attribute = _split(ProgramMessage(module=name))
    whole = {key: _as_integer(value) for key, value in config.items()}
    return _make(_attribute(_import(module), attribute), attribute, whole)


def _split(message: ProgramMessage) -> tuple[str, str]:
    """Return module and attribute."""
    source = message.WhichOneof("source")
    if source is None:
        raise InvalidArgument(
            "no program is named; set program.module, such as headrace_examples.digits:Digits",
            field="program",
        )
    field = "program.module" if source == "module" else "program.archive.object"
    text = message.module if source == "module" else message.archive.object
    module, colon, attribute = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise InvalidArgument(
            f"{field} {text!r} is not of the form module:attribute, such as headrace_examples.digits:Digits",
            field=field,
        )
    return module, attribute


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise InvalidArgument(
                f"there is no module {missing!r} on this node; install its package where the service runs, or correct the name",
                field="program",
            ) from error
        raise InvalidArgument(
            f"module {name!r} imports {missing!r}, which is not there; install it where the service runs",
            field="program",
        ) from error


def _import_unpacked(name: str, archive: bytes) -> ModuleType:
    folder = Path(tempfile.mkdtemp(prefix="program-")).resolve()
    files = unpack(archive, folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    module = _import(name)
    origin = getattr(module, "__file__", None)
    if not origin or not Path(origin).resolve().is_relative_to(folder):
        raise InvalidArgument(
            f"module {name!r} is not in the archive, which has {', '.join(files[:10])}; name a module of it, and one "
            f"that is not called like an installed one",
            field="program.archive.object",
        )
    return module


def _attribute(module: ModuleType, path: str) -> object:
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            public = [known for known in vars(found) if not known.startswith("_")]
            close = get_close_matches(name, public, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "check the name after the colon"
            raise InvalidArgument(f"module {module.__name__!r} has no {path!r}; {hint}", field="program")
        found = getattr(found, name)
    return found


def _make(found: object, name: str, config: Mapping[str, Any]) -> object:
    """Call a class or a function with the config; an instance is taken as it is."""
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        if config:
            raise InvalidArgument(
                f"{name} is an instance and takes no config, but {', '.join(config)} was given; leave the config out, or "
                f"name the class",
                field="program.config",
            )
        return found
    signature = inspect.signature(found)
    try:
        signature.bind(**config)
    except TypeError as error:
        raise InvalidArgument(
            f"the config does not fit {name}{signature}: {error}; correct the config", field="program.config"
        ) from error
    made: object = found(**config)
    return made


def _check_program(made: object, name: str) -> Program:
    missing = [f"{method}()" for method in _METHODS if not callable(getattr(made, method, None))]
    if not isinstance(getattr(made, "goal", None), Goal):
        missing.insert(0, "goal (a headrace.program.Goal)")
    if missing:
        raise InvalidArgument(
            f"{name} is no program: it lacks {', '.join(missing)}; see headrace.program.Program",
            field="program",
        )
    assert isinstance(made, Program)
    return made


def _as_integer(value: object) -> object:
    """Undo what JSON numbers do to integers: 32 travels as 32.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_as_integer(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_integer(item) for key, item in value.items()}
    return value
