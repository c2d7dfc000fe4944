"""Which services still run code that an upgrade has replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.by_path import load

outdated = load("roles/upgrade/library/outdated_services.py").outdated

LIBRARY = "7f00-7f10 r-xp 00000000 fe:00 1234   /usr/lib/x86_64-linux-gnu/libssl.so.3"
REPLACED = f"{LIBRARY} (deleted)"


def process(proc: Path, number: int, maps: str, cgroup: str) -> None:
    folder = proc / str(number)
    folder.mkdir()
    (folder / "maps").write_text(f"5500-5510 r-xp 00000000 fe:00 1 /usr/bin/python3.11\n{maps}\n7ffc-7ffd rw-p 0 0 0\n")
    (folder / "cgroup").write_text(f"0::{cgroup}\n")


def test_a_service_with_a_replaced_library_is_named(tmp_path: Path) -> None:
    process(tmp_path, 10, REPLACED, "/system.slice/system-loyalty.slice/loyalty@blue.service")
    process(tmp_path, 11, REPLACED, "/system.slice/system-loyalty.slice/loyalty@blue.service")
    process(tmp_path, 12, LIBRARY, "/system.slice/nginx.service")
    assert outdated(tmp_path, {"loyalty@blue.service", "nginx.service"}) == ["loyalty@blue.service"]


@pytest.mark.parametrize(
    "maps",
    [
        "7f00-7f10 r--p 00000000 fe:00 1234 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)",  # read, and not run
        "7f00-7f10 rwxs 00000000 00:01 99 /memfd:pcre (deleted)",
        "7f00-7f10 r-xp 00000000 fe:00 1234 /tmp/cached.so (deleted)",
        "7f00-7f10 r-xp 00000000 fe:00 1234 /usr/lib/odd (deleted) name.so",
    ],
)
def test_what_is_no_replaced_code_is_not(tmp_path: Path, maps: str) -> None:
    process(tmp_path, 10, maps, "/system.slice/nginx.service")
    assert outdated(tmp_path, {"nginx.service"}) == []


def test_only_services_that_run_can_be_restarted(tmp_path: Path) -> None:
    process(tmp_path, 10, REPLACED, "/system.slice/loyalty-backup@full.service")  # it ends by itself
    process(tmp_path, 11, REPLACED, "/user.slice/user-0.slice/session-1.scope")
    process(tmp_path, 12, REPLACED, "/user.slice/user-0.slice/user@0.service/app.slice/agent.service")
    process(tmp_path, 1, REPLACED, "/init.scope")
    (tmp_path / "13").mkdir()  # it has ended
    assert outdated(tmp_path, {"nginx.service", "user@0.service"}) == ["user@0.service"]
