"""Where a user's program is: what `train` is told, read without running any of it.

package.module:Attribute      an installed package, on the operator's allow-list
my_model.py                   a file, sent to the workers; its one program class is found by reading it
my_model.py:Attribute         the same, said outright
folder                        a folder of files, sent to the workers
folder:module                 the program class of that module inside it
folder:module:Attribute       the same, said outright
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidArgument

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_FORMS = "use package.module:Class, my_model.py, my_model.py:Class or folder:module:Class"


@dataclass(frozen=True)
class Installed:
    """A program of an installed package: `path` is `package.module:attribute`."""

    path: str


@dataclass(frozen=True)
class Sources:
    """A program in files to be sent: `path` is a file or a folder, `target` is `module:attribute` inside."""

    path: Path
    target: str


def find_program(text: str) -> Installed | Sources:
    """Read what a person said about the place of a program.

    Raises:
        InvalidArgument: It is none of the forms, no such file is there, or the class cannot be told.
    """
    place, *rest = text.split(":")
    path = Path(place).expanduser()
    if path.suffix == ".py":
        return _in_file(path, _at_most(1, rest, text))
    if len(rest) == 2 or (
        place and path.is_dir() and (not rest or "/" in place or _has_module(path, rest[0]))
    ):
        return _in_folder(path, _at_most(2, rest, text))
    if len(rest) == 1 and _DOTTED.fullmatch(place) and _DOTTED.fullmatch(rest[0]):
        return Installed(text)
    raise InvalidArgument(
        f"program {text!r} is no file, folder or installed object; {_FORMS}", field="program"
    )


def _at_most(count: int, parts: list[str], text: str) -> list[str]:
    if len(parts) > count or not all(_DOTTED.fullmatch(part) for part in parts):
        raise InvalidArgument(f"program {text!r} cannot be read; {_FORMS}", field="program")
    return parts


def _in_file(path: Path, names: list[str]) -> Sources:
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}; give the path of your program", field="program")
    if not path.stem.isidentifier():
        raise InvalidArgument(
            f"{path.name} cannot be imported, because {path.stem!r} is no Python name; rename the file",
            field="program",
        )
    attribute = names[0] if names else _only([(path.stem, name) for name in program_classes(path)], path)[1]
    return Sources(path, f"{path.stem}:{attribute}")


def _in_folder(path: Path, names: list[str]) -> Sources:
    if not path.is_dir():
        raise InvalidArgument(f"there is no folder {path}; give the path of your program", field="program")
    if len(names) == 2:
        _module_file(path, names[0])
        return Sources(path, f"{_import_path(path, names[0])}:{names[1]}")
    modules = {names[0]: _module_file(path, names[0])} if names else _modules(path)
    found = [(module, name) for module, file in modules.items() for name in program_classes(file)]
    module, attribute = _only(found, path)
    return Sources(path, f"{_import_path(path, module)}:{attribute}")


def _modules(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.py")) if file.stem.isidentifier()}


def _module_file(folder: Path, module: str) -> Path:
    for file in _module_files(folder, module):
        if file.is_file():
            return file
    first, _ = _module_files(folder, module)
    raise InvalidArgument(f"{folder} holds no module {module}: there is no file {first}", field="program")


def _has_module(folder: Path, module: str) -> bool:
    return any(file.is_file() for file in _module_files(folder, module))


def _module_files(folder: Path, module: str) -> tuple[Path, Path]:
    """Return where Python looks for a module."""
    base = folder.joinpath(*module.split("."))
    return base.with_name(f"{base.name}.py"), base / "__init__.py"


def _import_path(folder: Path, module: str) -> str:
    """Return how the module is imported where the archive is unpacked: a package keeps its folder's name there."""
    if not (folder / "__init__.py").is_file():
        return module
    package = folder.resolve().name
    return package if module == "__init__" else f"{package}.{module}"


def _only(found: list[tuple[str, str]], path: Path) -> tuple[str, str]:
    """Return the one (module, class) there is."""
    if len(found) == 1:
        return found[0]
    form = f"{path}:Class" if path.is_file() else f"{path}:module:Class"
    if found:
        names = ", ".join(f"{module}:{name}" for module, name in found)
        raise InvalidArgument(
            f"{path} has {len(found)} programs ({names}); say which one: {form}", field="program"
        )
    raise InvalidArgument(
        f"{path} has no class with the methods model() and data(); name the program: {form}",
        field="program",
    )


def program_classes(path: Path) -> list[str]:
    """Return the names of the classes in the file that look like programs: they define model() and data().

    Raises:
        InvalidArgument: The file is not Python.
    """
    try:
        module = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        where = f"{path}:{getattr(error, 'lineno', None) or 1}"
        raise InvalidArgument(
            f"{where} is not Python: {getattr(error, 'msg', error)}", field="program"
        ) from error
    return [node.name for node in module.body if isinstance(node, ast.ClassDef) and _is_program(node)]


def _is_program(node: ast.ClassDef) -> bool:
    return {"model", "data"} <= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
