"""Group commit: concurrent callers of one process share one write.

A majority write costs about the same for one document as for many, so callers that arrive while a write is under way
are answered together by the next one. There is no timer and no thread of its own: a lone caller waits for nobody, and
the first caller in the queue does the work for all who stand there. Nobody waits longer than his client does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from loyalty.infra.patience import TimeUp, seconds_left

T = TypeVar("T")
R = TypeVar("R")


class _Slot(Generic[T, R]):
    __slots__ = ("answered", "error", "item", "leads", "result", "wake")

    def __init__(self, item: T) -> None:
        self.item = item
        self.result: R | None = None
        self.error: BaseException | None = None
        self.answered = False
        self.leads = False  # it is this caller's turn to do the work
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
        """The result for `item`, after at most one round of others. TimeUp when the client can wait no longer."""
        slot: _Slot[T, R] = _Slot(item)
        with self._mutex:
            self._queue.append(slot)
            leads = slot.leads = not self._busy
            self._busy = True
        if not leads and not slot.wake.wait(seconds_left()):  # until answered, or until it is this caller's turn
            self._leave(slot)
            raise TimeUp
        if not slot.answered:
            self._lead()
        if slot.error is not None:
            raise slot.error
        return slot.result  # type: ignore[return-value]

    def _leave(self, slot: _Slot[T, R]) -> None:
        """Forget a caller who has gone. What is in a round already is done all the same."""
        with self._mutex:
            if slot in self._queue:
                self._queue.remove(slot)
                if slot.leads:
                    self._pass_lead()

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
        for slot in batch:
            slot.answered = True
        with self._mutex:
            self._pass_lead()
        for slot in batch:
            slot.wake.set()

    def _pass_lead(self) -> None:
        """Let the first in the queue lead, if there is one. Call it under the mutex."""
        self._busy = bool(self._queue)
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].wake.set()
