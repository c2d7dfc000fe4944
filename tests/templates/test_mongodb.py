"""The replica sets of the tests are like those of a site: what a test shows of them is true of the product."""

from __future__ import annotations

from tests.servers import SETTINGS
from tests.templates.render import SYSTEMS, value


def test_sites_have_the_settings_that_the_tests_have() -> None:
    for system in SYSTEMS:
        assert value("mongodb", "__mongodb_settings", system, topology="ha", host="db1") == SETTINGS
