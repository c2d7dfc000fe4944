"""What two configurations differ in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.configuration.differences import ABSENT, differences

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"id": st.sampled_from("xyz"), "v": inner}), max_size=3)
    ),
    max_leaves=8,
)


@given(values, values)
def test_there_is_no_difference_just_where_they_are_equal(one: Any, other: Any) -> None:
    assert (list(differences(one, other)) == []) == (_sorted(one) == _sorted(other))


def _sorted(value: Any) -> str:
    """The value with the names of every mapping in order: their order means nothing."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_sorted(inner)}" for name, inner in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_sorted, value)) + "]"
    return repr(value)


BASE = {"id": "base", "points": 1}
EXTRA = {"id": "extra", "points": 5}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 2}, [("/a", 1, 2)]),
        ({"a": 1}, {}, [("/a", 1, ABSENT)]),
        ({}, {"a": None}, [("/a", ABSENT, None)]),
        ([BASE], [EXTRA, BASE], [("/[extra]", ABSENT, EXTRA)]),
        ([BASE, EXTRA], [EXTRA, BASE], [("/order", ["base", "extra"], ["extra", "base"])]),
        ([BASE], [{**BASE, "points": 2}], [("/[base]/points", 1, 2)]),
        ([1, 2], [1, 3], [("/", [1, 2], [1, 3])]),
        (1, True, [("/", 1, True)]),
        ([1], [True], [("/", [1], [True])]),
    ],
)
def test_a_difference_says_where_and_what(before: Any, after: Any, expected: list[tuple[str, Any, Any]]) -> None:
    assert [(found.path, found.before, found.after) for found in differences(before, after)] == expected
