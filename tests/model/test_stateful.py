"""A slice of the search, for about a minute; `python -m tests.model` is the long run."""

from __future__ import annotations

import pytest

from tests.model.machines import MACHINES
from tests.model.search import search_for

SECONDS = 60


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_no_history_is_found_on_which_engine_and_model_differ(name: str) -> None:
    assert search_for(MACHINES[name], SECONDS / len(MACHINES)) > 0
