"""What an address of Redis behind Sentinels says."""

from __future__ import annotations

from typing import Any

import pytest

from loyalty.infra.sentinel import is_behind_sentinels, master_behind

URL = (
    "rediss+sentinel://loyalty:p%2Fss@10.0.0.1:26379,db2,[fd00::3]:7000/points"
    "?db=2&ssl_ca_certs=/ca.crt&sentinel_password=s%40y"
)


def settings_of(client: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How the client connects to the servers, and to each Sentinel."""
    pool = client.connection_pool
    return pool.connection_kwargs, [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]


def test_servers_and_sentinels_get_what_is_theirs() -> None:
    client = master_behind(URL, socket_timeout=0.2)
    server, sentinels = settings_of(client)
    assert client.connection_pool.service_name == "points"
    assert (server["username"], server["password"], server["db"]) == ("loyalty", "p/ss", 2)
    assert [(each["host"], each["port"]) for each in sentinels] == [
        ("10.0.0.1", 26379),
        ("db2", 26379),
        ("fd00::3", 7000),
    ]
    for settings in (server, *sentinels):
        assert (settings["ssl_ca_certs"], settings["socket_timeout"]) == ("/ca.crt", 0.2)
    assert {each["password"] for each in sentinels} == {"s@y"}
    assert "p/ss" not in str(sentinels)


def test_without_tls_and_passwords() -> None:
    server, (sentinel,) = settings_of(master_behind("redis+sentinel://one/points"))
    assert (server.get("password"), sentinel["password"]) == (None, None)
    assert "ssl_ca_certs" not in sentinel


@pytest.mark.parametrize("url", ["redis+sentinel:///points", "redis+sentinel://one", "redis+sentinel://one,/points"])
def test_an_address_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ValueError, match="Sentinel"):
        master_behind(url)


def test_other_addresses_are_of_servers() -> None:
    assert is_behind_sentinels(URL)
    assert not is_behind_sentinels("rediss://one:6379/0?note=+sentinel://")
