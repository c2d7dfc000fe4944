"""Every setting of the backup program, from one TOML file: typed, validated at start, all mistakes reported together.

Secrets stand in files of their own that only root can read. A file's name without a folder is looked up in the folder
that systemd names in `$CREDENTIALS_DIRECTORY`, and without one beside the settings.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = Path("/etc/loyalty/backup.toml")

_MEGABYTE = 1024 * 1024


class SettingsError(Exception):
    """The settings cannot be used; the message names every one that is wrong and why."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("must be HOST:PORT")
    return text


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Address = Annotated[str, AfterValidator(_address)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Database(_Section):
    """How the replica set is reached, as the user that may read everything and change nothing."""

    replica_set: str = Field(min_length=1, description="Name of the replica set.")
    name: str = Field("loyalty", min_length=1, description="The application's database, whose seals are noted.")
    user: str | None = Field(None, description="User of MongoDB; absent where it asks for none (tests).")
    password_file: Path | None = Field(None, description="File with that user's password.")
    ca_file: AbsolutePath | None = Field(None, description="The site's CA; absent: no TLS (tests).")


class Member(_Section):
    """A data-bearing member of the replica set, and how its `loyalty-backup-source` is started."""

    address: Address = Field(description="HOST:PORT, as the replica set names it.")
    ssh: str | None = Field(
        None, pattern=r"^[\w.-]+@[\w.:-]+$", description="USER@HOST whose forced command is the source program."
    )
    ssh_port: int = Field(22, ge=1, le=65535, description="Where it is listened to.")
    command: tuple[str, ...] = Field((), description="Where the member runs on this host: the program, as a list.")
    beside_application: bool = Field(
        False,
        description="Whether its host also serves requests, which a copy would slow down: another is asked first.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Member:
        if bool(self.ssh) == bool(self.command):
            raise ValueError("needs either ssh or command")
        return self


class Files(_Section):
    """Where the file store is, and how it is read."""

    path: AbsolutePath | None = Field(None, description="Where it is on this host: its folder.")
    ssh: str | None = Field(
        None,
        pattern=r"^[\w.-]+@[\w.:-]+$",
        description="USER@HOST whose forced command is an rsync daemon with the read-only module `storage`.",
    )
    ssh_port: int = Field(22, ge=1, le=65535, description="Where it is listened to.")
    key_file: Path = Field(Path("backup_ssh_files"), description="Private key whose use that host restricts.")
    megabytes_per_second: float = Field(0, ge=0, description="Most that is read in a second; 0: no limit.")

    @model_validator(mode="after")
    def _one_way(self) -> Files:
        if (self.path is None) == (self.ssh is None):
            raise ValueError("needs either path or ssh")
        return self


class Retention(_Section):
    """How long things stay."""

    days: int = Field(30, ge=1, description="The window: every second of so many days can be reached.")
    weeks: int = Field(8, ge=0, description="From before the window: the first chain of so many weeks.")
    months: int = Field(12, ge=0, description="From before the window: the first chain of so many months.")


class SecondCopy(_Section):
    """Where everything is copied once more: to another building, if this one burns."""

    to: str = Field(
        pattern=r"^(/|[\w.-]+@[\w.:-]+:/)[^\s]+$", description="A mounted folder, or USER@HOST:/FOLDER behind SSH."
    )
    allow_same_disk: bool = Field(False, description="Accept a folder on the disk of the target or of the data.")
    key_file: Path = Field(Path("backup_ssh_copy"), description="Private key for that host.")
    known_hosts_file: AbsolutePath = Field(
        Path("/etc/loyalty/backup_copy_known_hosts"), description="That host's key. No other host is talked to."
    )
    megabytes_per_second: float = Field(0, ge=0, description="Most that is sent in a second; 0: no limit.")


class Ssh(_Section):
    """How this host proves itself to the members, and they to it."""

    key_file: Path = Field(Path("backup_ssh_key"), description="Private key whose use the members restrict.")
    known_hosts_file: AbsolutePath = Field(
        Path("/etc/loyalty/backup_known_hosts"), description="The members' host keys. No other host is talked to."
    )


class Limits(_Section):
    """What a backup may cost the servers."""

    primary_lock_seconds: float = Field(3, gt=0, le=30, description="Longest lock of a member that writers wait for.")
    secondary_lock_seconds: float = Field(
        1800, gt=0, le=7200, description="Longest lock of a secondary that the others can do without."
    )
    megabytes_per_second: float = Field(0, ge=0, description="Most that a member sends in a second; 0: no limit.")
    beside_application_megabytes_per_second: float = Field(
        15, ge=0, description="The same for a member whose host also serves requests."
    )
    most_lag_seconds: float = Field(60, gt=0, description="A secondary that is further behind is not copied.")


class Log(_Section):
    """The continuous archive of the replica set's log."""

    every_seconds: float = Field(
        900, ge=1, le=86400, description="How often the timer runs; with --follow, the age at which a slice is closed."
    )
    window_hours: float = Field(24, gt=0, description="Alarm when the members' log reaches back less than this.")


class Restore(_Section):
    """The mongod that restores and drills start on this host."""

    mongod: AbsolutePath = Field(
        Path("/usr/bin/mongod"), description="The program, of the release line that the servers run."
    )
    cache_megabytes: int = Field(512, ge=256, description="Memory that it may use for data.")


class Drill(_Section):
    """The weekly proof that what is kept can be restored."""

    directory: AbsolutePath = Field(
        Path("/var/lib/loyalty-backup/drill"),
        description="Where drills, dumps and extracts restore; emptied before and after.",
    )
    within_days: int = Field(8, ge=1, description="Alarm when no restore was proven for so many days.")
    certificate_key_file: Path = Field(
        Path("backup_certificate_key"), description="Ed25519 seed (32 bytes in base64) that signs the certificates."
    )
    seal_public_key: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Public key of the ledger's seals, as `loyalty ledger key` prints it. Absent: that of the first "
        "seal, which anybody could have made who replaced the whole ledger.",
    )


class Settings(_Section):
    """What the backup program reads at start. Descriptions feed the handbook's table of settings."""

    site: str = Field(min_length=1, description="Name of the site. A folder of another site is never written to.")
    target: AbsolutePath = Field(Path("/mnt/backup"), description="The folder that keeps everything.")
    allow_same_disk: bool = Field(False, description="Accept a target on the disk of the data that it protects.")
    data_paths: tuple[AbsolutePath, ...] = Field(
        (), description="Folders of this host whose disk the target must not share: database and file store."
    )
    reserve_megabytes: int = Field(1024, ge=0, description="Room that a run leaves free on the target.")
    passphrase_file: Path = Field(Path("backup_passphrase"), description="Opens the repositories (borg).")
    identity_file: Path = Field(Path("backup_identity"), description="Opens log and dumps (age secret key).")
    database: Database
    members: tuple[Member, ...] = Field(min_length=1, description="The data-bearing members.")
    ssh: Ssh = Ssh()
    limits: Limits = Limits()
    log: Log = Log()
    restore: Restore = Restore()
    drill: Drill = Drill()
    files: Files | None = Field(None, description="Absent: the file store is not copied.")
    retention: Retention = Retention()
    second_copy: SecondCopy | None = Field(None, description="Absent: there is no second copy.")
    full_within_days: int = Field(14, ge=1, description="Alarm when the target will be full within so many days.")

    @model_validator(mode="after")
    def _each_member_once(self) -> Settings:
        addresses = [member.address for member in self.members]
        if len(set(addresses)) < len(addresses):
            raise ValueError("members: each address may stand there once")
        return self

    @property
    def reserve_bytes(self) -> int:
        """Room that a run leaves free on the target."""
        return self.reserve_megabytes * _MEGABYTE

    def without_throttle(self) -> Settings:
        """The same, and members send as fast as it goes."""
        limits = {"megabytes_per_second": 0.0, "beside_application_megabytes_per_second": 0.0}
        return self.model_copy(update={"limits": self.limits.model_copy(update=limits)})


def load_settings(path: Path = SETTINGS) -> Settings:
    """The settings in `path`. SettingsError lists everything that is missing or wrong."""
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"The settings {path} cannot be read ({error.strerror}). Name others by --settings."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings {path} are not TOML: {error}.") from None
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(path, error)) from None
    folder = Path(os.environ.get("CREDENTIALS_DIRECTORY") or path.absolute().parent)
    return _with_secrets_in(folder, settings)


def read_secret(path: Path) -> str:
    """The secret in a file, without the line's end. SettingsError when it cannot be read or is empty."""
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"The secret {path} cannot be read ({reason}).") from None
    if not secret:
        raise SettingsError(f"The secret {path} is empty.")
    return secret


def _with_secrets_in(folder: Path, settings: Settings) -> Settings:
    """The settings with every secret's file as an absolute path."""
    password = settings.database.password_file
    database = (
        settings.database.model_copy(update={"password_file": folder / password}) if password else settings.database
    )
    files, second_copy = settings.files, settings.second_copy
    return settings.model_copy(
        update={
            "passphrase_file": folder / settings.passphrase_file,
            "identity_file": folder / settings.identity_file,
            "database": database,
            "files": files and files.model_copy(update={"key_file": folder / files.key_file}),
            "second_copy": second_copy and second_copy.model_copy(update={"key_file": folder / second_copy.key_file}),
            "drill": settings.drill.model_copy(
                update={"certificate_key_file": folder / settings.drill.certificate_key_file}
            ),
            "ssh": settings.ssh.model_copy(update={"key_file": folder / settings.ssh.key_file}),
        }
    )


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"The settings {path} cannot be used:"]
    for defect in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(part) for part in defect["loc"]) or "the whole"
        reason = "is not set" if defect["type"] == "missing" else defect["msg"].removeprefix("Value error, ")
        lines.append(f"  {name}: {reason}.")
    return "\n".join(lines)
