"""How long a pull waits for its version."""

import pytest

from headrace_parameters.parameters_servicer import wait_bound_s


@pytest.mark.parametrize(("remaining_s", "bound_s"), [(0.4, 0.3), (10, 9), (7200, 7199), (9.3e9, 599)])
def test_a_pull_waits_until_shortly_before_its_deadline_or_ten_minutes_without_one(
    remaining_s: float, bound_s: float
) -> None:
    assert wait_bound_s(remaining_s) == pytest.approx(bound_s)
