"""Each of the corner cases in which loyalty engines go wrong is covered by a test that quotes its number."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
CASES = [f"3.{number}" for number in range(1, 33)]
# "Case 3.9", "cases 3.9 and 3.21", "Cases 3.1, 3.2": the word, then one number or several.
QUOTED = re.compile(r"\bcases?\s+(3\.\d{1,2}(?:(?:,\s+|\s+and\s+|,\s+and\s+)3\.\d{1,2})*)\b", re.IGNORECASE)
IN_A_NAME = re.compile(r"_case_3_(\d{1,2})\b")


def quoted() -> dict[str, list[str]]:
    """Which files quote each number."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path != Path(__file__):
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            numbers = [f"3.{number}" for number in IN_A_NAME.findall(text)]
            for match in QUOTED.finditer(text):
                numbers += re.findall(r"3\.\d{1,2}", match.group(1))
            for number in numbers:
                found.setdefault(number, []).append(str(path.relative_to(TESTS)))
    return found


def test_every_case_is_quoted_by_a_test() -> None:
    assert [case for case in CASES if case not in quoted()] == []


def test_no_test_quotes_a_case_that_there_is_not() -> None:
    assert sorted(set(quoted()) - set(CASES)) == []
