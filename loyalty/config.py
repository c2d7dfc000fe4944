"""Every setting of the application: typed, validated once at start, all mistakes reported together.

A value comes from the environment (`LOYALTY_<NAME>`) or, for secrets, from the file `loyalty_<name>` in the folder that
systemd names in `$CREDENTIALS_DIRECTORY`. The environment wins, so that a tool can borrow other rights for one call.
"""

from __future__ import annotations

import base64
import binascii
import os
import platform
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

_SENTINEL = re.compile(r"rediss?\+sentinel://")
_HOST = r"(?:\[[0-9a-fA-F:]+\]|[\w.-]+)(?::\d+)?"
_SENTINEL_URL = re.compile(_SENTINEL.pattern + rf"(?:[^@/?#]*@)?{_HOST}(?:,{_HOST})*/[\w.-]+(?:\?\S*)?")


class SettingsError(Exception):
    """The configuration cannot be used; the message names every variable and its remedy."""


def _seal_seed(value: SecretStr) -> SecretStr:
    try:
        seed = base64.b64decode(value.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        seed = b""
    if len(seed) != 32:
        raise ValueError("must be 32 random bytes in base64: openssl rand -base64 32")
    return value


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 32:
        raise ValueError("must have at least 32 characters: openssl rand -base64 48")
    return value


def _mongo_uri(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if _SENTINEL.match(url):
        if not _SENTINEL_URL.fullmatch(url):
            raise ValueError(
                "must name the Sentinels and the service: rediss+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/SERVICE"
            )
    elif not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError(
            "must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://; "
            "leave it out to run without Redis"
        )
    return value


class Settings(BaseSettings):
    """What the application reads at start. Descriptions feed the handbook's table of settings."""

    model_config = SettingsConfigDict(env_prefix="LOYALTY_", frozen=True, extra="ignore", env_ignore_empty=True)

    mongo_uri: Annotated[SecretStr, AfterValidator(_mongo_uri)] = Field(
        description="MongoDB connection string of the application's user, replica set included."
    )
    mongo_database: str = Field("loyalty", min_length=1, max_length=63, description="Name of the database.")
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        None,
        description="Redis for shared limits and cache invalidation, by itself or behind Sentinels "
        "(rediss+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/SERVICE?sentinel_password=…). "
        "Absent: the application runs without.",
    )
    secret_key: Annotated[SecretStr, AfterValidator(_long_enough)] = Field(
        description="Signs cursors and links. The same on every node; changing it voids links in use."
    )
    seal_key: Annotated[SecretStr, AfterValidator(_seal_seed)] | None = Field(
        None,
        description="Ed25519 seed (32 bytes in base64) that signs the ledger's seals. Only the jobs and the command "
        "line have it: whoever takes over a web process cannot sign a forged ledger.",
    )
    storage_path: Path = Field(Path("/mnt/storage"), description="Where files are kept; shared by all nodes.")
    public_url: str = Field(
        "http://127.0.0.1:8000",
        pattern=r"^https?://[^/\s]+$",
        description="Address that clients use, without a trailing slash.",
    )
    site_name: str = Field("dev", description="Name of the installation, shown in the console.")
    release: str = Field("development", description="Release that is running, shown by /version.")
    node_name: str = Field(default_factory=platform.node, description="Name of this server in logs and /version.")
    files_max_bytes: int = Field(20 * 1024 * 1024, ge=1024, description="Largest upload, in bytes.")
    files_reserve_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="Room that uploads leave free on the storage, in bytes."
    )
    rate_limit_per_minute: int = Field(
        60_000, ge=0, description="Requests an API key may send in a minute; 0 means no limit."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line to log.")
    accel_redirect: bool = Field(False, description="True when NGINX serves files by X-Accel-Redirect.")


def load_settings(**overrides: object) -> Settings:
    """The settings of this process. SettingsError lists every variable that is missing or wrong."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        return Settings(
            _secrets_dir=directory if directory and Path(directory).is_dir() else None,
            **overrides,  # type: ignore[arg-type]
        )
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = ["The configuration cannot be used:"]
    for defect in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(defect["loc"][0])
        field = Settings.model_fields[name]
        reason = "is not set" if defect["type"] == "missing" else defect["msg"].removeprefix("Value error, ")
        lines.append(
            f"  LOYALTY_{name.upper()}: {reason}. {field.description} "
            f"Set it in the environment or as the credential loyalty_{name}."
        )
    return "\n".join(lines)
