import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from headrace.config import ConfigError, ServiceSettings, describe, load


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="HEADRACE_PROBE_")
    address: str = "127.0.0.1:8499"
    data_dir: Path = Field(default=Path("data"), description="Folder of the artifacts.")
    slots: int = Field(default=2, ge=1, description="Tasks at a time.")
    programs: tuple[str, ...] = Field(default=(), description="Modules that may run.")


def mistakes_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Settings, environ)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_without_variables_the_defaults_hold() -> None:
    assert load(Settings, {}) == Settings()
    assert Settings().address == "127.0.0.1:8499"


def test_variables_set_fields_and_lists_are_separated_by_commas() -> None:
    settings = load(
        Settings,
        {
            "HEADRACE_PROBE_SLOTS": "3",
            "HEADRACE_PROBE_DATA_DIR": "/srv",
            "HEADRACE_PROBE_PROGRAMS": "a.b, c",
            "HEADRACE_OTHER_SLOTS": "8",
            "HOME": "/root",
        },
    )
    assert (settings.slots, settings.data_dir, settings.programs) == (3, Path("/srv"), ("a.b", "c"))


def test_building_settings_directly_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PROBE_SLOTS", "9")
    assert Settings().slots == 2
    assert load(Settings).slots == 9


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().slots = 5


def test_all_mistakes_are_reported_at_once() -> None:
    found = mistakes_of(
        {
            "HEADRACE_PROBE_SLOTS": "0",
            "HEADRACE_PROBE_ADDRESS": "nonsense",
            "HEADRACE_PROBE_METRICS_ADDRESS": "127.0.0.1:70000",
            "HEADRACE_PROBE_DRAIN": "4",
            "HEADRACE_PROBE_TRACES": "jaeger",
        }
    )
    assert [line.split(" ")[0] for line in found] == [
        "HEADRACE_PROBE_DRAIN",
        "HEADRACE_PROBE_ADDRESS",
        "HEADRACE_PROBE_METRICS_ADDRESS",
        "HEADRACE_PROBE_TRACES",
        "HEADRACE_PROBE_SLOTS",
    ]
    assert "did you mean HEADRACE_PROBE_DRAIN_S?" in found[0]
    assert "= 'nonsense': must be host:port" in found[1]
    assert "= '0': input should be greater than or equal to 1" in found[4]


@pytest.mark.parametrize("address", ["0.0.0.0:8471", "[::]:8471", "10.0.0.1:0", "example.org:80"])
def test_an_address_others_can_reach_needs_a_word(address: str) -> None:
    (mistake,) = mistakes_of({"HEADRACE_PROBE_ADDRESS": address})
    assert "HEADRACE_PROBE_ALLOW_UNAUTHENTICATED=true" in mistake
    allowed = {"HEADRACE_PROBE_ADDRESS": address, "HEADRACE_PROBE_ALLOW_UNAUTHENTICATED": "true"}
    assert load(Settings, allowed).address == address


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:1", "[::1]:65535", "127.9.9.9:80"])
def test_loopback_needs_none(address: str) -> None:
    assert load(Settings, {"HEADRACE_PROBE_ADDRESS": address}).address == address


@pytest.mark.parametrize("address", ["", "8471", ":8471", "::1:8471", "[::1", "host:", "host:-1", "[h]:1x"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    (mistake,) = mistakes_of({"HEADRACE_PROBE_ADDRESS": address})
    assert "127.0.0.1:8471" in mistake


def test_the_table_shows_every_setting_with_default_meaning_and_bounds() -> None:
    table = describe(Settings)
    for line in (
        "HEADRACE_PROBE_ADDRESS = 127.0.0.1:8499\n    host:port to serve gRPC on; port 0 takes a free one.\n",
        "HEADRACE_PROBE_SLOTS = 2\n    Tasks at a time. (>= 1)\n",
        'HEADRACE_PROBE_PROGRAMS = ""\n    Modules that may run.\n',
        "HEADRACE_PROBE_ALLOW_UNAUTHENTICATED = false\n",
    ):
        assert line in table


MAIN = "from headrace.config import *; print(load_or_exit(ServiceSettings).drain_s)"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_process_answers_help_and_refuses_other_arguments() -> None:
    assert (run().returncode, run().stdout) == (0, "10.0\n")
    helped = run("--help")
    assert (helped.returncode, helped.stdout) == (0, describe(ServiceSettings))
    refused = run("--port", "1")
    assert refused.returncode == 2
    assert "--port" in refused.stderr


def test_a_rule_about_several_settings_names_one_that_was_set() -> None:
    class Related(Settings):
        most: int = 3

        @model_validator(mode="after")
        def _fit(self) -> Self:
            if self.slots > self.most:
                raise ValueError(f"slots {self.slots} exceeds most {self.most}")
            return self

    with pytest.raises(ConfigError) as caught:
        load(Related, {"HEADRACE_PROBE_SLOTS": "4"})
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "HEADRACE_PROBE_SLOTS = '4': slots 4 exceeds most 3"
    ]
