"""The settings of the backup program: all mistakes at once, secrets found where systemd puts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from loyalty.backup.settings import SettingsError, load_settings, read_secret

GOOD = """
site = "acme"
target = "/mnt/backup"

[database]
replica_set = "loyalty"
user = "loyalty_backup"
password_file = "backup_password"

[[members]]
address = "db1:27017"
ssh = "loyalty-backup@db1"
"""


def load(folder: Path, text: str) -> object:
    path = folder / "backup.toml"
    path.write_text(text)
    return load_settings(path)


def test_a_file_with_what_is_needed_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "backup.toml"
    path.write_text(GOOD)
    settings = load_settings(path)
    assert settings.members[0].address == "db1:27017"
    assert settings.limits.primary_lock_seconds == 3
    assert settings.passphrase_file == tmp_path / "backup_passphrase"
    assert settings.database.password_file == tmp_path / "backup_password"


def test_secrets_come_from_the_folder_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    path = tmp_path / "backup.toml"
    path.write_text(GOOD.replace('"backup_password"', '"/etc/elsewhere"'))
    settings = load_settings(path)
    assert settings.identity_file == Path("/run/credentials/x/backup_identity")
    assert settings.ssh.key_file == Path("/run/credentials/x/backup_ssh_key")
    assert settings.database.password_file == Path("/etc/elsewhere")


def test_all_mistakes_are_named_together(tmp_path: Path) -> None:
    wrong = GOOD.replace('"/mnt/backup"', '"backup"').replace('replica_set = "loyalty"', "replicaset = 1")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, wrong.replace("db1:27017", "db1") + 'command = ["/x"]\n')
    message = str(caught.value)
    for part in ("target: must be an absolute", "database.replica_set: is not set", "database.replicaset", "HOST:PORT"):
        assert part in message


def test_a_member_is_reached_in_one_way(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="either ssh or command"):
        load(tmp_path, GOOD + 'command = ["/x"]\n')


def test_a_member_stands_there_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="once"):
        load(tmp_path, GOOD + '[[members]]\naddress = "db1:27017"\ncommand = ["/x"]\n')


@pytest.mark.parametrize("text", ["site = ", "\x00"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="not TOML"):
        load(tmp_path, text)


def test_settings_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")


def test_a_secret_is_read_without_its_line_end_and_never_empty(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "empty").write_text("\n")
    assert read_secret(tmp_path / "secret") == "s3cret"
    for name in ("empty", "none"):
        with pytest.raises(SettingsError, match=name):
            read_secret(tmp_path / name)


def test_files_and_second_copy_are_optional_and_their_keys_secrets(tmp_path: Path) -> None:
    path = tmp_path / "backup.toml"
    path.write_text(GOOD)
    assert load_settings(path).files is None
    path.write_text(GOOD + '[files]\nssh = "loyalty-backup@box1"\n[second_copy]\nto = "keeper@far:/srv/backup"\n')
    settings = load_settings(path)
    assert settings.files is not None
    assert settings.second_copy is not None
    assert settings.files.key_file == tmp_path / "backup_ssh_files"
    assert settings.second_copy.key_file == tmp_path / "backup_ssh_copy"


@pytest.mark.parametrize(
    "section",
    [
        "[files]\n",
        '[files]\nssh = "x@y"\npath = "/mnt/storage"\n',
        '[second_copy]\nto = "far"\n',
        "[retention]\ndays = 0\n",
    ],
)
def test_sections_that_cannot_be_meant_are_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        load(tmp_path, GOOD + section)
