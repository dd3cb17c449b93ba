"""How much a project may do per second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import ConfigError, load
from headrace.errors import QuotaExceeded
from headrace.testing import FakeClock
from headrace_parameters.core.quota import ProjectQuota, TokenBucket
from headrace_parameters.quotas import Quotas
from headrace_parameters.settings import Settings


@given(
    rate=st.floats(0.1, 1000),
    calls=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 500)), min_size=1, max_size=50),
)
def test_in_the_long_run_no_more_pass_than_the_rate(rate: float, calls: list[tuple[float, float]]) -> None:
    """A burst of one second's, and the last one let in, which may cost anything."""
    bucket, now, passed, last = TokenBucket(rate, 0.0), 0.0, 0.0, 0.0
    for pause, cost in calls:
        now += pause
        if not bucket.wait_s(now):
            bucket.spend(cost)
            passed, last = passed + cost, cost

    assert passed - last <= rate * now + max(rate, 1) + 1e-6


@given(rate=st.floats(0.1, 1000), cost=st.floats(0, 5000))
def test_who_waits_as_long_as_told_is_let_in(rate: float, cost: float) -> None:
    bucket = TokenBucket(rate, 0.0)
    bucket.spend(cost)

    wait_s = bucket.wait_s(1.0)

    assert not bucket.wait_s(1.0 + wait_s * (1 + 1e-9) + 1e-9)


def test_a_burst_is_what_one_second_brings() -> None:
    bucket = TokenBucket(3.0, 0.0)
    for _ in range(3):
        assert not bucket.wait_s(0.0)
        bucket.spend(1)

    assert bucket.wait_s(0.0) == pytest.approx(1 / 3)
    assert bucket.wait_s(100.0) == 0
    assert bucket.is_full


def quotas(clock: FakeClock, **projects: ProjectQuota) -> Quotas:
    return Quotas(ProjectQuota(calls_per_s=2), projects, lambda: clock.now)


def test_projects_do_not_take_from_each_other(clock: FakeClock) -> None:
    made = quotas(clock)
    made.admit("a")
    made.admit("a")
    with pytest.raises(QuotaExceeded, match=r"project 'a' has used its calls_per_s of 2") as refused:
        made.admit("a")
    made.admit("b")

    assert refused.value.retry_after_s == pytest.approx(0.5)
    assert refused.value.metadata == {"subject": "projects/a", "quota": "calls_per_s", "limit": "2"}
    clock.advance(0.5)
    made.admit("a")


def test_a_project_may_have_bounds_of_its_own(clock: FakeClock) -> None:
    made = quotas(clock, free=ProjectQuota(), heavy=ProjectQuota(bytes_per_s=1000))
    for _ in range(10):
        made.admit("free")
        made.admit("heavy")

    made.spend_bytes("heavy", 3000)
    with pytest.raises(QuotaExceeded, match="bytes_per_s of 1000") as refused:
        made.admit("heavy")

    assert refused.value.retry_after_s == pytest.approx(2.001)


def test_projects_that_are_idle_are_forgotten(clock: FakeClock) -> None:
    made = quotas(clock)
    for number in range(2000):
        clock.advance(1)
        made.admit(f"project-{number}")

    assert len(made._buckets) <= 1025


def test_the_operator_says_them_in_the_environment() -> None:
    settings = load(
        Settings,
        {
            "HEADRACE_PARAMETERS_PROJECT_CALLS_PER_S": "5",
            "HEADRACE_PARAMETERS_PROJECT_QUOTAS": '{"team-a": {"max_bytes": 1000, "calls_per_s": 100}}',
            "HEADRACE_PARAMETERS_ALLOWED_UPDATES": "mine, ours.rules",
        },
    )

    assert settings.quotas() == (
        ProjectQuota(calls_per_s=5),
        {"team-a": ProjectQuota(max_bytes=1000, calls_per_s=100)},
    )
    assert settings.allowed_updates == ["mine", "ours.rules"]


@pytest.mark.parametrize(
    "text", ['{"team-a": {"bytes": 1}}', '{"team-a": {"max_bytes": -1}}', "{", "[1]", '{"a": 3}']
)
def test_quotas_that_cannot_be_stop_the_process_at_its_start(text: str) -> None:
    with pytest.raises(ConfigError, match="HEADRACE_PARAMETERS_PROJECT_QUOTAS"):
        load(Settings, {"HEADRACE_PARAMETERS_PROJECT_QUOTAS": text})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
