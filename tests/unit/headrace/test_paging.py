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
