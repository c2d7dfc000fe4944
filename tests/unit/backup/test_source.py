"""What a member is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loyalty.backup import source
from loyalty.backup.settings import Member, load_settings


@pytest.mark.parametrize(
    ("beside_application", "throttled", "rate"), [(False, True, 40), (True, True, 15), (True, False, 0)]
)
def test_a_member_beside_the_application_sends_slower(
    beside_application: bool, throttled: bool, rate: float, tmp_path: Path
) -> None:
    """A full at its own pace took up to 16 times of what requests wait for otherwise (docs/performance.md)."""
    settings_file = tmp_path / "backup.toml"
    settings_file.write_text(
        f'site = "acme"\ntarget = "{tmp_path}"\n[database]\nreplica_set = "loyalty"\n'
        "[limits]\nmegabytes_per_second = 40\nbeside_application_megabytes_per_second = 15\n"
        '[[members]]\naddress = "box1:27017"\nssh = "loyalty-backup@box1"\n'
    )
    settings = load_settings(settings_file)
    member = Member(
        address="box1:27017",
        command=("sh", "-c", f"head -n 1 > {tmp_path}/request; exit 1"),
        beside_application=beside_application,
    )
    with (
        pytest.raises(source.SourceError),
        source.physical(settings if throttled else settings.without_throttle(), member, progress=source.discard),
    ):
        pass
    assert json.loads((tmp_path / "request").read_text())["megabytes_per_second"] == rate
