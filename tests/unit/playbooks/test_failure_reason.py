"""What a playbook says of the task at which it stopped."""

from __future__ import annotations

from typing import Any

import pytest

from tests.by_path import load

reason = load("playbooks/filter_plugins/failure_reason.py").failure_reason

COMMAND = {"failed": True, "msg": "non-zero return code", "rc": 3, "stderr": "", "stdout": ""}
READ_ONLY = {"failed": True, "msg": "There was an issue creating /opt/x: Read-only file system"}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"failed": True, "msg": "No server there.\n"}, "No server there."),
        ({"failed": True}, "see the output above"),
        (COMMAND | {"stderr": "borg: no room\n"}, "non-zero return code:\nborg: no room"),
        (COMMAND | {"stdout": "in its output"}, "non-zero return code:\nin its output"),
        (COMMAND, "non-zero return code"),
        ({"msg": "MODULE FAILURE", "rc": 1, "module_stderr": "a traceback"}, "MODULE FAILURE:\na traceback"),
        (COMMAND | {"msg": "apt says: no room", "stderr": "no room"}, "apt says: no room"),
        (
            {"msg": "One or more items failed", "results": [{"failed": False, "msg": "well"}, READ_ONLY, READ_ONLY]},
            READ_ONLY["msg"],
        ),
        (
            {"msg": "One or more items failed", "results": [COMMAND | {"stderr": "one"}, READ_ONLY]},
            f"non-zero return code:\none\n{READ_ONLY['msg']}",
        ),
        ({"failed": True, "msg": "All items completed", "results": []}, "All items completed"),
    ],
)
def test_whoever_knows_is_heard(result: dict[str, Any], said: str) -> None:
    assert reason(result) == said


def test_only_the_end_of_a_long_story_is_told() -> None:
    lines = [f"line {number}" for number in range(100)]
    assert reason(COMMAND | {"stderr": "\n".join(lines)}) == "\n".join(["non-zero return code:", *lines[-10:]])


def test_what_a_secret_task_said_stays_with_it() -> None:
    said = COMMAND | {"stderr": "password: hunter2"}
    assert reason(said, True) == "non-zero return code"
    assert reason({"msg": "One or more items failed", "results": [said]}, True) == "One or more items failed"
