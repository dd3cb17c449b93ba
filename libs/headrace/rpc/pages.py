"""Whole lists, asked for page by page; `headrace.paging` is the server's side of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

PAGE_SIZE = 1000  # the most a server sends at once


class PagedRequest(Protocol):
    """A request for one page."""

    page_token: str


class PagedResponse(Protocol):
    """One page."""

    next_page_token: str


Request = TypeVar("Request", bound=PagedRequest)
Response = TypeVar("Response", bound=PagedResponse)


def pages(method: Callable[[Request], Response], request: Request) -> Iterator[Response]:
    """Yield every page, the next one asked for when it is needed; `request` is used up."""
    while True:
        page = method(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def pages_async(
    method: Callable[[Request], Awaitable[Response]], request: Request
) -> AsyncIterator[Response]:
    """Do as `pages`."""
    while True:
        page = await method(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
