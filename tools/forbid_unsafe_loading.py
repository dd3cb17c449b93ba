"""Refuse code that could run what it loads: pickle and everything built on it.

Weights travel as safetensors, graphs as ONNX bytes; a file from outside must never be able to run code when it is read.
`make check` runs this over the whole tree. There is no way to excuse a line.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("libs", "services", "examples", "tools", "tests", "benchmarks")

FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_NAMES = {
    "numpy.load",  # reads pickles when asked; arrays travel as bytes with a dtype and a shape
    "torch.jit.load",
    "torch.load",
    "torch.package",
    "torch.save",
    "torch.serialization",
}
# Safe functions that become unsafe by one keyword.
FORBIDDEN_KEYWORDS = {"allow_pickle"}


@dataclass(frozen=True)
class Finding:
    """One forbidden thing: what it is, and the line (from 1) it stands on."""

    line: int
    what: str


def find_unsafe_loading(source: str) -> list[Finding]:
    """List what in `source` could unpickle, in order of lines; aliases made by imports are followed.

    Raises:
        SyntaxError: `source` is not Python.
    """
    tree = ast.parse(source)
    aliases = dict(_aliases(tree))
    found = {finding for node in ast.walk(tree) for finding in _inspect(node, aliases)}
    return sorted(found, key=lambda finding: (finding.line, finding.what))


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (name in this file, what it stands for) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield (name.asname, name.name) if name.asname else (name.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for name in node.names:
                yield name.asname or name.name, f"{node.module}.{name.name}"


def _inspect(node: ast.AST, aliases: dict[str, str]) -> Iterator[Finding]:
    if isinstance(node, ast.Import):
        yield from _forbidden(node.lineno, [name.name for name in node.names])
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield from _forbidden(node.lineno, [f"{node.module}.{name.name}" for name in node.names])
    elif isinstance(node, ast.Attribute):
        yield from _forbidden(node.lineno, [_dotted(node, aliases)])
    elif isinstance(node, ast.keyword) and node.arg in FORBIDDEN_KEYWORDS:
        yield Finding(node.lineno, f"{node.arg}=")


def _forbidden(line: int, names: list[str]) -> Iterator[Finding]:
    for name in names:
        module = name.split(".")[0]
        if module in FORBIDDEN_MODULES:
            yield Finding(line, module)
        yield from (
            Finding(line, bad) for bad in FORBIDDEN_NAMES if name == bad or name.startswith(f"{bad}.")
        )


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """Spell `a.b.c` in full, with `a` replaced by what it was imported as; "" for anything else."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, aliases)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def main() -> int:
    """Print every finding of the tree as path:line; return 1 if there is any."""
    status = 0
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for finding in find_unsafe_loading(path.read_text()):
            print(
                f"{path.relative_to(ROOT)}:{finding.line}: {finding.what} can run code from the data it reads;",
                end=" ",
            )
            print("use safetensors for weights and plain bytes for arrays")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
