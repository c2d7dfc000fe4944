"""Reading the machine's apt sources, old form and new, and leaving other archives out."""

from __future__ import annotations

from pathlib import Path

import pytest

from loyalty.ops.aptsources import Source, mirror, parse_list, parse_sources, sources_of
from loyalty.ops.errors import Refusal

ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib  # near by
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] https://mirror.example/security bookworm-security main
deb-src http://mirror.example/debian bookworm main
deb http://flat.example/ ./
"""
DEB822 = """\
# Written by the installer
Types: deb deb-src
URIs: http://mirror.example/debian https://second.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://inline.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_one_line_form() -> None:
    assert parse_list(ONE_LINE) == [
        Source("http://mirror.example/debian", ("bookworm",), ("main", "contrib")),
        Source("https://mirror.example/security", ("bookworm-security",), ("main",), "/usr/share/keyrings/k.gpg"),
        Source("http://flat.example/", ("./",), ()),
    ]


def test_deb822_form() -> None:
    suites = ("bookworm", "bookworm-updates")
    assert parse_sources(DEB822) == [
        Source("http://mirror.example/debian", suites, ("main",), KEYRING),
        Source("https://second.example/debian", suites, ("main",), KEYRING),
        Source("http://inline.example/debian", ("bookworm",), ("main",)),
    ]


def test_only_the_release_itself_is_taken_over(tmp_path: Path) -> None:
    directory = tmp_path / "sources.list.d"
    directory.mkdir()
    (tmp_path / "sources.list").write_text(
        "deb http://mirror.example/ubuntu jammy main universe\n"
        "deb http://mirror.example/ubuntu jammy-security main\n"
        "deb cdrom:[Ubuntu]/ jammy main\n"
    )
    (directory / "tools.list").write_text("deb https://tools.example/apt stable main\n")
    (directory / "node.sources").write_text(
        "Types: deb\nURIs: https://node.example\nSuites: nodistro\nComponents: main\n"
    )
    assert [source.suites for source in sources_of("jammy", tmp_path)] == [("jammy",), ("jammy-security",)]


def test_a_stanza_reads_back() -> None:
    source = Source("http://mirror.example/debian", ("bookworm", "bookworm-updates"), ("main",), KEYRING)
    assert parse_sources(source.stanza()) == [source]


def test_the_mirror_is_the_archive_of_the_release() -> None:
    security = Source("http://mirror.example/security", ("bookworm-security",), ("main",))
    release = Source("http://mirror.example/debian", ("bookworm",), ("main",))
    assert mirror("bookworm", [security, release]) is release
    with pytest.raises(Refusal):
        mirror("bookworm", [security])
