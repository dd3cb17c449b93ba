"""Answers that come later: what a handler may return instead of an answer, so that no thread has to wait for it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Soon = Callable[[Callable[[], object]], object]
T = TypeVar("T")
Changed = TypeVar("Changed")
Method = TypeVar("Method", bound="Callable[..., Any]")


class Answer(ABC, Generic[T]):
    """An answer, or an error, that comes later.

    grpcio calls `wait` in the call's own thread; the turbo front end calls `then`, and `wait` once that has called back.
    """

    @abstractmethod
    def wait(self) -> T:
        """Return the answer as soon as it is there, or raise the error; a handler's answer is waited for once."""

    @abstractmethod
    def then(self, callback: Callable[[], object]) -> None:
        """Call back once, in the thread that settles, which it must not keep long; at once if that has happened."""

    def map(self, change: "Callable[[T], Changed]") -> "Answer[Changed]":
        """Return an answer that `change` makes from this one in the thread that waits, each time somebody does."""
        return _Mapped(self, change)


class Deferred(Answer[T]):
    """An answer that any thread settles, once. A subclass may override `wait` to do itself what is waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] | None = []  # None: settled
        self._value: T | None = None
        self._error: BaseException | None = None

    @property
    def settled(self) -> bool:
        """Whether there is an answer or an error."""
        return self._callbacks is None

    def settle(self, value: T) -> bool:
        """Give the answer; return False, and change nothing, if there is one or an error."""
        return self._settle(value, None)

    def fail(self, error: BaseException) -> bool:
        """Give the error that `wait` raises; return False, and change nothing, if there is one or an answer."""
        return self._settle(None, error)

    def then(self, callback: Callable[[], object]) -> None:
        """Call back once, in the thread that settles; at once if that has happened."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback()

    def wait(self) -> T:
        """Return the answer as soon as it is there, or raise the error."""
        if self._callbacks is not None:
            settled = threading.Event()
            self.then(settled.set)
            settled.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # a T, for there is no error

    def _settle(self, value: T | None, error: BaseException | None) -> bool:
        with self._lock:
            if self._callbacks is None:
                return False
            self._value, self._error = value, error
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks:
            callback()
        return True


class _Mapped(Answer[Changed]):
    def __init__(self, inner: "Answer[T]", change: "Callable[[T], Changed]") -> None:
        self._inner: Answer[Any] = inner
        self._change: Callable[[Any], Changed] = change

    def then(self, callback: Callable[[], object]) -> None:
        self._inner.then(callback)

    def wait(self) -> Changed:
        return self._change(self._inner.wait())


class _Loop(threading.local):
    """The event loop of a thread, if it has one."""

    soon: Soon | None = None


def loop_here() -> Soon | None:
    """Return what has this thread's event loop do something after what it does now; None in a thread that serves no loop."""
    return _loop.soon


def be_loop(soon: Soon | None) -> None:
    """Say how this thread's event loop is given something to do; None: it has no loop any more."""
    _loop.soon = soon


_loop = _Loop()


def answers_later(method: Method) -> Method:
    """Declare that a servicer's method of a unary rpc never blocks and computes little: it returns an `Answer` where it has none at once.

    The turbo front end runs it in the one thread of its event loop, where a millisecond is long.
    """
    setattr(method, _DECLARED, True)
    return method


def is_declared_to_answer_later(method: Callable[..., Any]) -> bool:
    """Tell whether `answers_later` says so of a method."""
    return getattr(method, _DECLARED, False) is True


_DECLARED = "headrace_answers_later"
