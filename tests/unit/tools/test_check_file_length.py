"""The check that keeps files short."""

from tools.check_file_length import is_too_long


def test_a_file_of_300_lines_is_short_enough() -> None:
    assert not is_too_long("x = 1\n" * 300)


def test_a_file_of_301_lines_is_too_long() -> None:
    assert is_too_long("x = 1\n" * 301)


def test_a_long_file_with_a_reason_on_top_is_accepted() -> None:
    assert not is_too_long("# length: one table, read as a whole\n" + "x = 1\n" * 301)


def test_a_long_proto_with_a_reason_on_top_is_accepted() -> None:
    assert not is_too_long("// length: one wire protocol\n" + "message M {}\n" * 301)


def test_a_reason_of_no_words_does_not_count() -> None:
    assert is_too_long("# length:\n" + "x = 1\n" * 301)


def test_a_reason_hidden_far_below_does_not_count() -> None:
    assert is_too_long("x = 1\n" * 301 + "# length: one table, read as a whole\n")
