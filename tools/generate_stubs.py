"""Generate the Python stubs of every proto; `make protos` runs it.

    protos/headrace/registry/v1/models.proto  ->  libs/headrace/registry/v1/models_pb2.py and its three siblings
    protos/inference/v2/*.proto               ->  libs/headrace/inference/oip/v2/ (the Open Inference Protocol)

The wire names of the Open Inference Protocol belong to everyone (`inference.ModelInferRequest`), so its stubs get a
descriptor pool of their own: see docs/decisions/0003-own-descriptor-pool-for-oip.md.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OIP_SOURCE = PROTOS / "inference" / "v2"
OIP_PATH = Path("headrace/inference/oip/v2")


class GenerationError(Exception):
    """protoc refused a proto, or wrote something this script does not know how to change."""


def generate(out: Path) -> list[Path]:
    """Write the stubs of all protos below `out`, removing stubs whose proto is gone.

    Returns:
        The stubs, relative to `out`, sorted. `__init__.py` files that were missing are written but not listed.
    Raises:
        GenerationError: A proto does not compile; the message is protoc's own.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        _compile(fresh)
        _isolate_oip(fresh / OIP_PATH)
        stubs = sorted(path.relative_to(fresh) for path in fresh.rglob("*_pb2*.py*"))
        for stub in stubs:
            _write(out / stub, (fresh / stub).read_text())
    for stub in stubs:
        _make_package(out, stub.parent)
    for stale in set(committed(out)) - set(stubs):
        (out / stale).unlink()
    return stubs


def committed(out: Path) -> list[Path]:
    """List the stubs that lie below `out`, relative to it, sorted."""
    return sorted(
        path.relative_to(out) for path in out.rglob("*_pb2*.py*") if "__pycache__" not in path.parts
    )


def _compile(out: Path) -> None:
    sources = [str(path.relative_to(PROTOS)) for path in sorted((PROTOS / "headrace").rglob("*.proto"))]
    sources += [str(OIP_PATH / path.name) for path in sorted(OIP_SOURCE.glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"--plugin={_plugin(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command += [f"-I{_moved_oip(out)}", f"-I{PROTOS}", f"-I{_google_protos()}"]
    command += [f"--{kind}={out}" for kind in ("python_out", "grpc_python_out")]
    command += [f"--{kind}=quiet:{out}" for kind in ("mypy_out", "mypy_grpc_out")]
    result = subprocess.run(command + sources, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise GenerationError(result.stderr or f"protoc ended with status {result.returncode}")


def _moved_oip(folder: Path) -> Path:
    """Write the protos of the Open Inference Protocol below `folder` as if they lay where their stubs go.

    protoc names the stubs, and their imports of one another, after the place of the protos; wire names are left as they are.
    """
    root = folder / "protos"
    for path in OIP_SOURCE.glob("*.proto"):
        _write(
            root / OIP_PATH / path.name,
            path.read_text().replace('import "inference/v2/', f'import "{OIP_PATH}/'),
        )
    return root


def _plugin(name: str) -> str:
    return f"{name}={Path(sys.executable).parent / name}"


def _google_protos() -> Path:
    """Find the folder that holds google/rpc/*.proto; google/protobuf/*.proto come with grpc_tools by themselves."""
    return Path(str(distribution("googleapis-common-protos").locate_file("")))


def _isolate_oip(folder: Path) -> None:
    """Move the stubs in `folder` from the process-wide descriptor pool into the one they share among themselves."""
    shared = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
    own = "from headrace.inference.oip.descriptor_pool import POOL as _pool\n"
    for stub in folder.glob("*_pb2.py"):
        source = stub.read_text()
        if source.count(shared) != 1 or source.count("_descriptor_pool.Default()") != 1:
            raise GenerationError(
                f"{stub.name} registers itself in a new way; teach {Path(__file__).name} about it"
            )
        stub.write_text(source.replace(shared, own).replace("_descriptor_pool.Default()", "_pool"))


def _write(path: Path, text: str) -> None:
    """Write `text` unless it stands there already: an untouched file keeps its time, so nothing is rebuilt."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _make_package(out: Path, package: Path) -> None:
    """Give every folder on the way to `package` an `__init__.py`, where it has none yet."""
    for depth in range(1, len(package.parts) + 1):
        folder = Path(*package.parts[:depth])
        init = out / folder / "__init__.py"
        if not init.exists():
            init.write_text(f'"""{_describe(folder)}"""\n')


def _describe(package: Path) -> str:
    dotted = ".".join(package.parts)
    if package.name[:1] == "v" and package.name[1:].isdigit():
        return f"Messages and stubs of `{dotted}`; `make protos` writes them."
    return f"What a caller needs of `{dotted}`."


def outdated(out: Path) -> list[Path]:
    """List the stubs below `out` that differ from what the protos say now: changed, missing or stale; sorted."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        stubs = set(generate(fresh)) | set(committed(out))
        return sorted(stub for stub in stubs if _read(out / stub) != _read(fresh / stub))


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main() -> int:
    """Generate into `libs/`, or with `--check` only compare; return the exit status."""
    out = ROOT / "libs"
    try:
        different = outdated(out)
        if different and "--check" not in sys.argv[1:]:
            generate(out)
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1
    for stub in different:
        print(f"libs/{stub}")
    if "--check" in sys.argv[1:] and different:
        print("These stubs do not match the protos; run `make protos` and commit the result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
