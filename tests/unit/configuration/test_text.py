"""The configuration's YAML: whatever is written is read back, and nothing is guessed or blown up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loyalty.configuration.text import MOST_BYTES, MalformedYaml, read, write

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
@example({"\x85": "\u2028"})
def test_what_is_written_is_read_back(value: Any) -> None:
    assert read(write(value)) == value


@pytest.mark.parametrize("text", ["12:30", "2026-01-01", "no", "on", "1_000", "0x10", "1.5", "010", "=", "<<"])
def test_nothing_is_guessed(text: str) -> None:
    assert read(f"name: {text}") == {"name": text}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x [1]\nb: *x", "Line 2, column 4: anchors"),
        ("a: 1\nb: 2\na: 3", "Line 3, column 1: 'a' stands here twice"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("1: a", "a name must be a text"),
        ("a: [1", "Line 1"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: \x00", "special characters"),
        ('a: "\\ud944\\udde6"', "not valid Unicode"),
        ("[" * 5000, "nested too deeply"),
        ("x" * (MOST_BYTES + 1), "at most"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(MalformedYaml) as refused:
        read(text)
    assert reason in refused.value.detail
