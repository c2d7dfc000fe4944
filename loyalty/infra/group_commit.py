"""Group commit: concurrent callers of one process share one write.

A majority write costs about the same for one document as for many, so callers that arrive while a write is under way
are answered together by the next one. There is no timer and no thread of its own: a lone caller waits for nobody, and
the first caller in the queue does the work for all who stand there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Slot(Generic[T, R]):
    __slots__ = ("answered", "error", "item", "result", "wake")

    def __init__(self, item: T) -> None:
        self.item = item
        self.result: R | None = None
        self.error: BaseException | None = None
        self.answered = False
        self.wake = threading.Event()


class GroupCommit(Generic[T, R]):
    """Calls `process` with the items of all waiting callers, at most `most` at a time, one call at a time.

    `process` returns one result an item, in order. If it raises, every caller of that round gets the exception.
    """

    def __init__(self, process: Callable[[Sequence[T]], Sequence[R]], *, most: int = 256) -> None:
        self._process = process
        self._most = most
        self._mutex = threading.Lock()
        self._queue: list[_Slot[T, R]] = []
        self._busy = False

    def submit(self, item: T) -> R:
        """The result for `item`, after at most one round of others."""
        slot: _Slot[T, R] = _Slot(item)
        with self._mutex:
            self._queue.append(slot)
            leads = not self._busy
            self._busy = True
        if not leads:
            slot.wake.wait()  # until answered, or until it is this caller's turn to lead
        if not slot.answered:
            self._lead()
        if slot.error is not None:
            raise slot.error
        return slot.result  # type: ignore[return-value]

    def _lead(self) -> None:
        """Process the head of the queue, this caller's own item first among it, then pass the lead on."""
        with self._mutex:
            batch, self._queue = self._queue[: self._most], self._queue[self._most :]
        try:
            results = self._process([slot.item for slot in batch])
            for slot, result in zip(batch, results, strict=True):
                slot.result = result
        except BaseException as error:
            for slot in batch:
                slot.error = error
        with self._mutex:
            successor = self._queue[0] if self._queue else None
            self._busy = successor is not None
        for slot in batch:
            slot.answered = True
            slot.wake.set()
        if successor is not None:
            successor.wake.set()
