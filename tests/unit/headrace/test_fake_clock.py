import threading

from headrace.testing import FakeClock


def test_a_waiter_wakes_when_the_clock_has_moved_far_enough() -> None:
    clock = FakeClock(now=100)
    woke_at: list[float] = []

    def wait() -> None:
        clock.wait(10)
        woke_at.append(clock())

    waiting = threading.Thread(target=wait)
    waiting.start()
    clock.advance(9)
    assert not woke_at
    while not woke_at:
        clock.advance(1)  # the thread may not have begun to wait before the clock moved
        waiting.join(0.01)
    assert woke_at[0] >= 110
    assert clock.now == clock()
