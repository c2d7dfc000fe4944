"""Redis behind Sentinels, as one address: where the master is, they say, and go on saying after it was replaced.

    rediss+sentinel://USER:PASSWORD@HOST:26379,HOST:26379,HOST:26379/SERVICE?ssl_ca_certs=FILE&sentinel_password=…

User and password are those of the Redis servers; `sentinel_password` is that of the Sentinels, when they want one.
`rediss` means TLS for both kinds of servers. Other options are those of any Redis address (`db`, `ssl_ca_certs` …).
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.connection import parse_url
from redis.sentinel import Sentinel

SENTINEL_PORT: Final = 26379
_MARK: Final = "+sentinel://"


def is_behind_sentinels(url: str) -> bool:
    """Whether the address names Sentinels rather than a server."""
    return _MARK in url.partition("?")[0]


def master_behind(url: str, **options: Any) -> Any:
    """A client of whichever server is the master at the time of each new connection; connects to nothing yet.

    `options` go to every connection, to Sentinels and servers alike. ValueError when the address makes no sense.
    """
    scheme, _, rest = url.partition(_MARK)
    authority, _, tail = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    service, _, query = tail.partition("?")
    if not hosts or not service:
        raise ValueError("name the Sentinels and the service: redis+sentinel://HOST:26379,HOST:26379/SERVICE")
    server: dict[str, Any] = parse_url(f"{scheme}://{user}{at}?{query}")  # type: ignore[no-untyped-call]
    server.pop("connection_class", None)
    sentinel_password = server.pop("sentinel_password", None)
    tls = {"ssl": scheme == "rediss"} | {name: value for name, value in server.items() if name.startswith("ssl_")}
    # A Sentinel knows no users before 6.2, and the older protocol needs none to be named.
    to_sentinels = {**tls, **options, "password": sentinel_password, "protocol": 2}
    addresses = [_address(host) for host in hosts.split(",")]
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        addresses, sentinel_kwargs=to_sentinels, **{**server, **tls, **options}
    )
    return sentinels.master_for(unquote(service))


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("a Sentinel in the address has no name")
    return parts.hostname, parts.port or SENTINEL_PORT
