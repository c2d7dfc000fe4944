"""`host` is the server as its operator reaches it, over SSH; `box` is the same as a stranger on the network sees it."""

from __future__ import annotations

import os

import pytest

from tests.one_box import Box, open_box


@pytest.fixture(scope="session")
def box() -> Box:
    return open_box(os.environ.get("LOYALTY_TEST_SITE", "molecule"))
