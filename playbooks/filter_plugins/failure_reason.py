"""Why a task failed, in the words of whoever knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_LINES = 10
"""Of what a command said last."""


def failure_reason(result: Mapping[str, Any], is_secret: bool = False) -> str:
    """What a failed task says of itself: each item of a loop its own reason, and a command what it said last.

    `result` is `ansible_failed_result`. Ansible censors it for the screen, not for a playbook: `is_secret`, the task's
    own `no_log`, leaves nothing but its message.
    """
    if is_secret:
        return _message(result)
    failed = [item for item in result.get("results", ()) if isinstance(item, Mapping) and item.get("failed")]
    return "\n".join(dict.fromkeys(map(_reason, failed or [result])))


def _reason(result: Mapping[str, Any]) -> str:
    if "rc" not in result:
        return _message(result)
    said = str(result.get("stderr") or result.get("stdout") or result.get("module_stderr") or "").strip()
    last = "\n".join(said.splitlines()[-_LINES:])
    message = _message(result)
    return message if last in message else f"{message}:\n{last}"


def _message(result: Mapping[str, Any]) -> str:
    return str(result.get("msg") or "see the output above").strip()


class FilterModule:
    """Filters of the playbooks."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"failure_reason": failure_reason}
