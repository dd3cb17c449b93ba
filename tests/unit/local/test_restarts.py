"""When a process that ended is started again."""

from headrace.local.restarts import GOOD_RUN_S, PAUSES, RestartPolicy


def test_a_process_that_keeps_failing_is_started_ever_more_rarely_but_never_given_up() -> None:
    policy = RestartPolicy()

    delays = [policy.delay_after(ran_s=0.0) for _ in range(2000)]

    assert delays == sorted(delays)
    assert delays[1] == 2 * delays[0]
    assert delays[-1] == PAUSES.longest_s


def test_a_good_run_forgets_the_failures_before_it() -> None:
    policy = RestartPolicy(failures=6)

    assert policy.delay_after(ran_s=GOOD_RUN_S) == RestartPolicy().delay_after(ran_s=0.0)
