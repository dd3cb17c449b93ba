"""Which requests are traced."""

import pytest

from headrace.errors import InvalidArgument
from headrace_inference.core.catalog import Key
from headrace_inference.core.trace_settings import TraceSettings, Values

MODEL, OTHER = Key("p", "m"), Key("p", "other")
ON: dict[str, Values] = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}


def taken(settings: TraceSettings, key: Key, requests: int) -> list[int]:
    return [number for number in range(1, requests + 1) if settings.sampler_takes(key)]


def test_nothing_is_traced_until_somebody_says_so() -> None:
    settings = TraceSettings()
    assert taken(settings, MODEL, 2000) == []
    assert settings.change(None, {}) == {
        "trace_level": ("OFF",),
        "trace_rate": ("1000",),
        "trace_count": ("-1",),
        "log_frequency": ("0",),
        "trace_file": ("",),
        "trace_mode": ("opentelemetry",),
    }


def test_one_request_of_the_rate_is_traced_until_the_count_is_used_up() -> None:
    settings = TraceSettings()
    settings.change(None, {**ON, "trace_rate": ["3"], "trace_count": ["2"]})
    assert taken(settings, MODEL, 12) == [3, 6]


def test_a_model_has_its_own_settings_and_the_servers_for_the_rest() -> None:
    settings = TraceSettings()
    settings.change(MODEL, ON)
    assert (taken(settings, MODEL, 2), taken(settings, OTHER, 2)) == ([1, 2], [])
    now = settings.change(None, {"log_frequency": ["7"]})
    assert now["trace_level"] == ("OFF",)
    assert settings.change(MODEL, {})["log_frequency"] == ("7",)


def test_a_cleared_setting_is_as_one_step_further_out() -> None:
    settings = TraceSettings()
    settings.change(None, {"trace_rate": ["5"]})
    settings.change(MODEL, {"trace_rate": ["2"]})
    assert settings.change(MODEL, {"trace_rate": []})["trace_rate"] == ("5",)
    assert settings.change(None, {"trace_rate": []})["trace_rate"] == ("1000",)


def test_a_change_of_the_server_reaches_models_with_settings_of_their_own() -> None:
    settings = TraceSettings()
    settings.change(MODEL, {"trace_rate": ["1"]})
    settings.change(None, {"trace_level": ["TIMESTAMPS"]})
    assert taken(settings, MODEL, 2) == [1, 2]


def test_a_model_that_is_gone_leaves_no_settings() -> None:
    settings = TraceSettings()
    settings.change(MODEL, ON)
    settings.forget(MODEL)
    assert taken(settings, MODEL, 2) == []
    assert settings.change(MODEL, {})["trace_level"] == ("OFF",)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("speed", ["1"], "'speed' is not known; known are trace_level"),
        ("trace_level", ["TENSORS"], "cannot be 'TENSORS'; it is one of OFF, TIMESTAMPS"),
        ("trace_rate", ["0"], "one number from 1 to"),
        ("trace_rate", ["1", "2"], "one number from 1 to"),
        ("trace_rate", ["x"], "one number from 1 to"),
        ("trace_count", ["-2"], "one number from -1 to"),
        ("log_frequency", [str(1 << 31)], "one number from 0 to"),
        ("trace_file", ["/etc/passwd"], "is fixed when the server starts"),
        ("trace_mode", ["triton"], "is fixed when the server starts"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_and_changes_nothing(
    name: str, values: list[str], message: str
) -> None:
    settings = TraceSettings()
    with pytest.raises(InvalidArgument, match=message):
        settings.change(None, {"trace_level": ["TIMESTAMPS"], name: values})
    assert settings.change(None, {})["trace_level"] == ("OFF",)
