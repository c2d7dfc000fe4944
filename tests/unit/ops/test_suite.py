"""What gets a second attempt in the test command, and what does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from loyalty.ops import suite
from loyalty.ops.environment import tool_environment
from loyalty.ops.site import CHECKOUT

TESTS = """
import httpx
from tests.bounds import assert_within
from tests.servers import ServerError, wait_until

tried = set()

def first(name):
    new = name not in tried
    tried.add(name)
    return new

def test_too_slow():
    assert_within(5, 6 if first("slow") else 4)

def test_never_happened():
    happens = not first("never")
    wait_until(lambda: happens, timeout_s=0, failure=lambda: "it did not happen")

def test_no_answer():
    if first("answer"):
        raise httpx.ReadTimeout("nothing was heard")

def test_wrong_answer():
    assert not first("wrong"), "Timeout: a balance that was wrong once"

def test_slow_twice():
    assert_within(5, 6)
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pytest says of `TESTS`, called as the faults are."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_it.py").write_text(TESTS)
    (section,) = suite.chosen(["faults"])
    command = section.checks[0].command.replace("tests/faults", f"-p no:cacheprovider {folder}")
    log = folder / "log"
    with log.open("w") as stream:
        code = subprocess.run(
            ["/bin/bash", "-c", command], cwd=CHECKOUT, env=tool_environment(), stdout=stream, check=False
        ).returncode
    assert code == 1
    return log


def test_a_missed_second_is_measured_again_and_a_wrong_answer_is_not(log: Path) -> None:
    said = [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "RERUN"))]
    assert sorted({line.split(" - ")[0].split("::")[-1] for line in said if line.startswith("FAILED")}) == [
        "test_slow_twice",
        "test_wrong_answer",
    ]
    assert sorted({line.split("::")[-1] for line in said if line.startswith("RERUN")}) == [
        "test_never_happened",
        "test_no_answer",
        "test_slow_twice",
        "test_too_slow",
    ]


def test_each_of_them_is_named_at_the_end(log: Path) -> None:
    (section,) = suite.chosen(["faults"])
    result = suite.Result("faults", section.checks[0], ok=False, seconds=1.0, note="", log=log)
    named = suite.named([result])
    assert all(line.startswith("faults: ") for line in named)
    assert any("RERUN" in line and "test_too_slow" in line for line in named)
    assert any("FAILED" in line and "test_wrong_answer" in line for line in named)
