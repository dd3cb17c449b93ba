"""In which order the answers on a stream leave."""

from headrace_inference.core.ordering import Line


def test_answers_leave_in_the_order_of_their_requests() -> None:
    line: Line[str] = Line()
    first, second, third = line.enter(), line.enter(), line.enter()
    assert line.give(third, "c", done=True) == []
    assert line.give(second, "b", done=True) == []
    assert line.give(first, "a", done=True) == ["a", None, "b", None, "c", None]


def test_the_first_request_may_have_several_answers_that_leave_at_once() -> None:
    line: Line[str] = Line()
    first, second = line.enter(), line.enter()
    assert line.give(first, "a1", done=False) == ["a1"]
    assert line.give(second, "b", done=True) == []
    assert line.give(first, "a2", done=False) == ["a2"]
    assert line.give(first, done=True) == [None, "b", None]


def test_a_request_freed_of_the_order_waits_for_nobody_and_nobody_for_it() -> None:
    line: Line[str] = Line()
    first, free, last = line.enter(), line.enter(), line.enter()
    assert line.free(free) == []
    assert line.give(free, "x1", done=False) == ["x1"]
    assert line.give(last, "c", done=True) == []
    assert line.give(first, "a", done=True) == ["a", None, "c", None]
    assert line.give(free, "x2", done=True) == ["x2", None]


def test_to_free_the_first_lets_those_behind_it_leave() -> None:
    line: Line[str] = Line()
    first, second = line.enter(), line.enter()
    line.give(second, "b", done=True)
    assert line.free(first) == ["b", None]
