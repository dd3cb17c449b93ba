import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidArgument
from headrace.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, PageRequest


@given(st.sets(st.integers(), max_size=60), st.integers(1, 20), st.booleans())
def test_the_pages_together_are_the_list(numbers: set[int], size: int, descending: bool) -> None:
    rows = sorted(numbers, reverse=descending)
    seen: list[int] = []
    token = ""
    while True:
        request = PageRequest.parse(size, token, "ListModels", "projects/default")
        page = request.page_of_all(rows, key=lambda row: (row,), descending=descending)
        assert len(page.items) <= size
        seen += page.items
        token = page.next_page_token
        if not token:
            break
    assert seen == rows


def test_a_full_last_page_has_no_token() -> None:
    assert PageRequest.parse(3, "", "m").page_of_all([1, 2, 3], key=lambda row: (row,)).next_page_token == ""


def test_sizes_are_cut_to_the_bounds() -> None:
    assert PageRequest.parse(0, "").size == DEFAULT_PAGE_SIZE
    assert PageRequest.parse(10**6, "").size == MAX_PAGE_SIZE
    with pytest.raises(InvalidArgument, match="page_size -1"):
        PageRequest.parse(-1, "")


def test_a_token_of_another_list_is_refused() -> None:
    token = (
        PageRequest.parse(1, "", "ListModels", "projects/a")
        .page_of_all("abc", lambda row: (row,))
        .next_page_token
    )
    assert PageRequest.parse(1, token, "ListModels", "projects/a").after == ("a",)
    with pytest.raises(InvalidArgument, match="another list") as caught:
        PageRequest.parse(1, token, "ListModels", "projects/b")
    assert caught.value.field == "page_token"


@given(st.text())
def test_any_other_text_is_no_token(text: str) -> None:
    if text:
        with pytest.raises(InvalidArgument):
            PageRequest.parse(1, text, "ListModels")


@pytest.mark.parametrize("content", ["1", "{}", "[]", '"x"', "null", "[[1]]", "[" * 100_000, "NaN"])
def test_a_token_that_decodes_to_something_else_is_refused(content: str) -> None:
    with pytest.raises(InvalidArgument):
        PageRequest.parse(1, base64.urlsafe_b64encode(content.encode()).decode(), "ListModels")


def forged(*key: str | int | float) -> PageRequest:
    """Ask with a token as anybody could write it: its digest is no secret."""
    rows = PageRequest.parse(1, "", "m").page_of_all([key, key], lambda row: row)
    return PageRequest.parse(1, rows.next_page_token, "m")


def test_a_key_is_what_its_list_is_ordered_by() -> None:
    assert PageRequest.parse(1, "", "m").after_text() is None
    assert PageRequest.parse(1, "", "m").after_number() is None
    assert forged("a").after_text() == "a"
    assert forged(10**18).after_number() == 10**18


@pytest.mark.parametrize("key", [(1,), ("a", "b"), ("a\0",)])
def test_a_key_that_is_no_text_is_refused(key: tuple[str | int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="page_token is not one of this service"):
        forged(*key).after_text()


@pytest.mark.parametrize("key", [("1",), (1, 2), (-1,), (10**18 + 1,), (1.5,)])
def test_a_key_that_is_no_number_is_refused(key: tuple[str | int | float, ...]) -> None:
    with pytest.raises(InvalidArgument, match="page_token is not one of this service"):
        forged(*key).after_number()


def test_a_key_that_cannot_be_compared_with_the_rows_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="page_token is not one of this service"):
        forged(1).page_of_all(["a", "b"], lambda row: (row,))
