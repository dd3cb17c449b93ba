import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from headrace.errors import InvalidArgument, ProgramNotAllowed
from headrace.program.archive import pack
from headrace.program.loading import check_allowed, load_program
from headrace.types.v1.program_pb2 import Archive
from headrace.types.v1.program_pb2 import Program as ProgramMessage

SOURCE = """
from headrace.program import Goal

class Mine:
    goal = Goal("accuracy", "max")
    def __init__(self, width=8, rate=0.5, sizes=(), fail=False):
        if fail:
            raise RuntimeError("no data here")
        self.width, self.rate, self.sizes = width, rate, sizes
    def model(self): ...
    def loss(self, outputs, targets): ...
    def data(self, split): ...
    def metrics(self, outputs, targets): ...

class Half:
    def model(self): ...

mine = Mine(width=3)
number = 3
"""
ARTIFACT = f"projects/default/artifacts/{'0' * 64}"


@pytest.fixture(autouse=True)
def imports_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, imports_are_undone: None) -> None:
    package = tmp_path / "installed" / "my_programs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(SOURCE)
    (package / "needy.py").write_text("import not_installed_anywhere\n")
    (package / "broken.py").write_text("raise ZeroDivisionError('at import')\n")
    sys.path.insert(0, str(package.parent))


def no_fetch(name: str) -> bytes:
    raise AssertionError("nothing should be fetched")


def load(module: str, **config: Any) -> object:
    struct = Struct()
    struct.update(config)
    message = ProgramMessage(module=module, config=struct)
    return load_program(message, allowed_modules=["my_programs"], allow_archives=False, fetch=no_fetch)


def test_a_class_is_called_with_the_config_and_integers_stay_integers() -> None:
    program = load("my_programs.mine:Mine", width=32, rate=0.25, sizes=[1, 2])
    assert vars(program) == {"width": 32, "rate": 0.25, "sizes": [1, 2]}
    assert type(vars(program)["width"]) is int


def test_an_instance_is_taken_as_it_is() -> None:
    assert vars(load("my_programs.mine:mine"))["width"] == 3


def test_an_instance_takes_no_config() -> None:
    with pytest.raises(InvalidArgument, match="takes no config, but width was given"):
        load("my_programs.mine:mine", width=4)


@pytest.mark.parametrize("module", ["os:system", "my_programs_too.mine:Mine", "my:Mine"])
def test_a_module_that_is_not_on_the_allow_list_is_refused_and_not_imported(module: str) -> None:
    with pytest.raises(ProgramNotAllowed, match="ALLOWED_PROGRAMS"):
        load(module)
    assert "my_programs_too" not in sys.modules


@pytest.mark.parametrize(
    "text", ["my_programs.mine", "my_programs.mine:", ":Mine", "my programs:Mine", "a..b:C", ""]
)
def test_a_name_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="module:attribute"):
        load(text)


def test_a_request_without_a_program_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no program is named"):
        check_allowed(ProgramMessage(), allowed_modules=[], allow_archives=True)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("my_programs.absent:Mine", "no module 'my_programs.absent'"),
        ("my_programs.needy:Mine", "imports 'not_installed_anywhere'"),
        ("my_programs.mine:Mime", "did you mean 'Mine'"),
        ("my_programs.mine:Half", r"lacks goal .*, loss\(\), data\(\), metrics\(\)"),
        ("my_programs.mine:number", "is no program"),
    ],
)
def test_what_is_no_program_is_refused_with_a_way_out(module: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        load(module)


def test_a_config_that_does_not_fit_is_refused_with_what_fits() -> None:
    with pytest.raises(InvalidArgument, match=r"Mine\(width=8.*unexpected keyword argument 'widht'"):
        load("my_programs.mine:Mine", widht=4)


def test_what_the_users_code_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        load("my_programs.broken:Mine")
    with pytest.raises(RuntimeError, match="no data here"):
        load("my_programs.mine:Mine", fail=True)


def archived(tmp_path: Path, name: str, target: str, *, allow: bool = True) -> object:
    source = tmp_path / name
    source.write_text(SOURCE)
    message = ProgramMessage(archive=Archive(artifact=ARTIFACT, object=target))
    fetched = {ARTIFACT: pack(source)}
    return load_program(message, allowed_modules=[], allow_archives=allow, fetch=fetched.__getitem__)


def test_a_program_comes_out_of_an_archive(tmp_path: Path) -> None:
    assert vars(archived(tmp_path, "archived_program.py", "archived_program:Mine"))["width"] == 8


def test_archives_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(ProgramNotAllowed, match="ALLOW_ARCHIVES"):
        archived(tmp_path, "archived_program.py", "archived_program:Mine", allow=False)


@pytest.mark.parametrize("target", ["subprocess:Popen", "my_programs.mine:Mine"])
def test_an_archive_is_no_way_around_the_allow_list(tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is not in the archive, which has archived_program\.py"):
        archived(tmp_path, "archived_program.py", target)
