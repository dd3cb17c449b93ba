"""What a person says about the place of a program, read without running it."""

from pathlib import Path

import pytest

from headrace.client.source import Installed, Sources, find_program
from headrace.errors import InvalidArgument

PROGRAM = """
import torch  # never imported by reading

class Examples: ...

class {name}:
    goal = None
    def model(self): ...
    def data(self, split): ...
"""


def write(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(PROGRAM.format(name=name) for name in names))
    return path


def test_an_installed_object_is_named_by_module_and_attribute() -> None:
    assert find_program("headrace_examples.digits:Digits") == Installed("headrace_examples.digits:Digits")


def test_the_one_program_class_of_a_file_is_found(tmp_path: Path) -> None:
    file = write(tmp_path / "my_model.py", "Digits")

    assert find_program(str(file)) == Sources(file, "my_model:Digits")


def test_a_class_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "my_model.py", "One", "Two")

    assert find_program(f"{file}:Two") == Sources(file, "my_model:Two")


def test_a_file_with_two_programs_asks_which_one(tmp_path: Path) -> None:
    file = write(tmp_path / "my_model.py", "One", "Two")

    with pytest.raises(
        InvalidArgument, match=r"has 2 programs \(my_model:One, my_model:Two\); say which one"
    ):
        find_program(str(file))


def test_a_file_without_a_program_says_what_is_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "my_model.py"
    file.write_text("class Other:\n    def model(self): ...\n")

    with pytest.raises(InvalidArgument, match=r"no class with the methods model\(\) and data\(\)"):
        find_program(str(file))


def test_a_folder_is_searched_for_its_one_program(tmp_path: Path) -> None:
    write(tmp_path / "nets.py", "Net")
    (tmp_path / "layers.py").write_text("class Layer: ...\n")

    assert find_program(str(tmp_path)) == Sources(tmp_path, "nets:Net")
    assert find_program(f"{tmp_path}:nets") == Sources(tmp_path, "nets:Net")
    assert find_program(f"{tmp_path}:nets:Other") == Sources(tmp_path, "nets:Other")


def test_two_words_mean_a_folder_only_if_it_has_that_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "vision" / "nets.py", "Net")
    monkeypatch.chdir(tmp_path)

    assert find_program("vision:nets") == Sources(Path("vision"), "nets:Net")
    assert find_program("vision:Net") == Installed("vision:Net")


def test_a_package_keeps_its_name_because_its_archive_does(tmp_path: Path) -> None:
    package = tmp_path / "vision"
    write(package / "nets.py", "Net")
    (package / "__init__.py").write_text("")

    assert find_program(str(package)) == Sources(package, "vision.nets:Net")
    assert find_program(f"{package}:nets:Net") == Sources(package, "vision.nets:Net")


def test_a_module_below_a_folder_is_found_by_its_dotted_name(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "nets.py", "Net")

    assert find_program(f"{tmp_path}:deep.nets") == Sources(tmp_path, "deep.nets:Net")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent.py", "there is no file absent.py"),
        ("absent:module:Class", "there is no folder absent"),
        ("digits", "is no file, folder or installed object"),
        ("a.b:C:D:E", "is no file, folder or installed object"),
        ("", "is no file, folder or installed object"),
        ("my_model.py:a:b", "cannot be read"),
        ("my_model.py:no good", "cannot be read"),
    ],
)
def test_what_cannot_be_read_says_what_can(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as raised:
        find_program(text)

    assert raised.value.field == "program"


def test_a_file_that_is_not_python_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("x = 1\ndef model(:\n")

    with pytest.raises(InvalidArgument, match=r"broken\.py:2 is not Python"):
        find_program(str(file))


def test_a_file_whose_name_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="rename the file"):
        find_program(str(write(tmp_path / "my-model.py", "Net")))


def test_a_module_the_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="holds no module nets"):
        find_program(f"{tmp_path}:nets:Net")
