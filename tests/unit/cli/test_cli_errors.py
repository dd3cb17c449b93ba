"""Every error is one line that says what to do, and an exit code."""

import pytest

from headrace.cli.app import run
from headrace.cli.failures import error_lines, usage_line, world_line
from headrace.cli.options import read_config
from headrace.cli.session import Session, hoist
from headrace.errors import InvalidArgument, ProgramFailed, Unavailable

HERE = "127.0.0.1:8470"


def test_where_nothing_listens_the_error_says_how_to_start_or_find_one() -> None:
    error = Unavailable("cannot reach 127.0.0.1:8470 (...)", metadata={"address": HERE})

    (line,) = error_lines(error, HERE)

    assert line.startswith("error: no headrace answers at 127.0.0.1:8470; start one with `headrace up`")


def test_another_service_that_is_away_is_named_as_the_error_says() -> None:
    error = Unavailable(
        "cannot reach 127.0.0.1:9999 (refused); check it", metadata={"address": "127.0.0.1:9999"}
    )

    assert error_lines(error, HERE) == ["error: cannot reach 127.0.0.1:9999 (refused); check it"]


def test_the_log_of_a_failure_comes_before_its_one_line() -> None:
    error = ProgramFailed("run-1 failed: loss() raised", metadata={"detail": "Traceback\n  line 3"})

    assert error_lines(error, HERE) == ["Traceback", "  line 3", "error: run-1 failed: loss() raised"]


def test_a_message_of_many_lines_ends_with_its_first() -> None:
    assert error_lines(InvalidArgument("scheduler cannot start:\nlog 1\nlog 2"), HERE)[-1] == (
        "error: scheduler cannot start:"
    )


def test_wrong_usage_is_one_line_that_points_to_the_help() -> None:
    assert usage_line("Missing option\n  '--steps'.", "headrace train") == (
        "error: missing option '--steps'; see `headrace train --help`"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "error: no such command 'trian'"),
        (["train", "x.py"], "error: missing argument 'model'; see `headrace train --help`"),
        (["train", "x.py", "m", "--steps", "0", "--batch-size", "1"], "error: invalid value for '--steps'"),
        (["job", "wach", "x"], "error: no such command 'wach'"),
        (["jobs", "--jsn"], "error: no such option: --jsn"),
    ],
)
def test_wrong_usage_ends_with_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["jobs", "--address", "nowhere"], "error: address 'nowhere' must be host:port"),
        (["jobs", "--project", "My Project"], "error: name 'projects/My Project' is not of the form"),
        (
            ["train", "absent.py", "m", "--steps", "1", "--batch-size", "1"],
            "error: there is no file absent.py",
        ),
        (["predict", "digits", "--input", "x"], "error: --input x cannot be read: it has no name"),
        (
            ["train", "a:B", "m", "--steps", "1", "--batch-size", "1", "--config", "width"],
            "error: --config 'width' cannot be read",
        ),
    ],
)
def test_what_can_never_work_ends_with_code_1_before_anything_is_called(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["jobs", "--address", "a:1"], ["--address", "a:1", "jobs"]),
        (["jobs", "--project=b", "--json"], ["--project=b", "jobs", "--json"]),
        (["x", "--", "--address", "a:1"], ["x", "--", "--address", "a:1"]),
        (["jobs", "--address"], ["--address", "jobs"]),
        ([], []),
    ],
)
def test_global_options_may_stand_anywhere(said: list[str], meant: list[str]) -> None:
    assert hoist(said) == meant


def test_a_command_to_repeat_names_the_options_that_are_not_the_default() -> None:
    assert Session(HERE, "default").command("job", "watch", "x") == "headrace job watch x"
    assert Session("a:1", "b").command("jobs") == "headrace --address a:1 --project b jobs"


def test_a_program_config_is_json_where_it_can_be() -> None:
    pairs = ["width=64", "name=big", "deep=true", "sizes=[1,2]", "text=a=b", "empty="]

    assert read_config(pairs) == {
        "width": 64,
        "name": "big",
        "deep": True,
        "sizes": [1, 2],
        "text": "a=b",
        "empty": "",
    }


def test_what_the_machine_refuses_is_told_in_one_line() -> None:
    refused = FileNotFoundError(2, "No such file or directory", "/proc/x")
    assert world_line(refused) == (
        "error: cannot use /proc/x: No such file or directory; make it usable, or choose another"
    )
    assert world_line(OSError("odd")) == "error: this machine refused: odd; make it usable, or choose another"
