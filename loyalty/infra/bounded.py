"""Work that may hang, such as a call to a file system whose server is away, with an end to the waiting.

The kernel gives no time limit for a file. So each call is made by a thread of its own, which is left behind when it
takes too long. While one is left behind nothing else is tried: a share that is away costs few threads, not one for
each request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Hanging(OSError):
    """The call did not come back in time, or one before it has not come back yet."""


class _Call(Generic[T]):
    def __init__(self, act: Callable[[], T], undo: Callable[[T], object] | None) -> None:
        self.act = act
        self.undo = undo
        self.over = threading.Event()
        self.left_behind = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Bounded:
    """Calls with a limit, all to the same thing, which works or hangs as a whole."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._left_behind = 0

    def call(self, act: Callable[[], T], *, seconds: float, undo: Callable[[T], object] | None = None) -> T:
        """What `act` gives or raises. Hanging after `seconds`, or at once while an earlier call hangs.

        `undo` is called with the result of an act that came back when nobody waited for it any more.
        """
        if self._left_behind:
            raise Hanging(None, f"{self._what} still does not answer")
        return self._wait(self._start(act, undo), seconds)

    def tidy(self, act: Callable[[], object], *, seconds: float) -> None:
        """Do `act` whenever it can be done, and wait for it unless something hangs. Nobody hears of a failure."""
        waits = not self._left_behind
        call = self._start(act, None)
        if waits:
            with suppress(OSError):
                self._wait(call, seconds)

    def _start(self, act: Callable[[], T], undo: Callable[[T], object] | None) -> _Call[T]:
        call = _Call(act, undo)
        threading.Thread(target=self._run, args=(call,), name=f"bounded {self._what}", daemon=True).start()
        return call

    def _wait(self, call: _Call[T], seconds: float) -> T:
        if not call.over.wait(seconds):
            with self._lock:
                if not call.over.is_set():
                    call.left_behind = True
                    self._left_behind += 1
                    raise Hanging(None, f"{self._what} did not answer within {seconds:g} s")
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    def _run(self, call: _Call[Any]) -> None:
        try:
            call.result = call.act()
        except BaseException as error:
            call.error = error
        with self._lock:
            call.over.set()
            if not call.left_behind:
                return
            self._left_behind -= 1
        if call.undo is not None and call.error is None:
            call.undo(call.result)
