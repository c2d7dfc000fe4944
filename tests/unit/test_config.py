"""Settings: every mistake at once, with its remedy; secrets from files."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from loyalty.config import SettingsError, load_settings

SEED = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("LOYALTY_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "loyalty_mongo_uri").write_text("mongodb://from-file/")
    (tmp_path / "loyalty_secret_key").write_text("s" * 32)
    (tmp_path / "loyalty_seal_key").write_text(SEED + "\n")
    return tmp_path


def test_every_mistake_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_SECRET_KEY", "short")
    monkeypatch.setenv("LOYALTY_SEAL_KEY", "AAAA")
    monkeypatch.setenv("LOYALTY_REDIS_URL", "localhost:6379")
    monkeypatch.setenv("LOYALTY_RATE_LIMIT_PER_MINUTE", "many")
    monkeypatch.setenv("LOYALTY_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    for name in ("MONGO_URI", "SECRET_KEY", "SEAL_KEY", "REDIS_URL", "RATE_LIMIT_PER_MINUTE", "LOG_LEVEL"):
        assert f"LOYALTY_{name}: " in message
    assert "LOYALTY_MONGO_URI: is not set" in message
    assert "openssl rand -base64 32" in message
    assert "short" not in message.replace("shorter", "")  # a secret is never repeated


def test_secrets_come_from_files(credentials: Path) -> None:
    settings = load_settings()
    assert settings.mongo_uri.get_secret_value() == "mongodb://from-file/"
    assert settings.seal_key is not None
    assert settings.seal_key.get_secret_value() == SEED
    assert settings.redis_url is None
    assert "from-file" not in repr(settings)


def test_the_environment_wins(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_MONGO_URI", "mongodb://from-environment/")
    assert load_settings().mongo_uri.get_secret_value() == "mongodb://from-environment/"


def test_an_empty_variable_is_an_absent_one(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_REDIS_URL", "")
    assert load_settings().redis_url is None


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one:26379/loyalty",
        "rediss+sentinel://loyalty:p%40ss@10.0.0.1:26379,10.0.0.2:26379,[fd00::3]:26379/loyalty?db=0&ssl_ca_certs=/ca",
        "unix://loyalty:pass@/run/redis/redis.sock?db=0",
    ],
)
def test_redis_may_stand_behind_sentinels(credentials: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LOYALTY_REDIS_URL", url)
    settings = load_settings()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url


@pytest.mark.parametrize("rest", ["one:26379", "/loyalty", "one:26379,/loyalty", "u:p/q@one/loyalty", "one/loyalty/0"])
def test_an_address_of_sentinels_names_them_and_the_service(
    credentials: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setenv("LOYALTY_REDIS_URL", f"rediss+sentinel://{rest}")
    with pytest.raises(SettingsError, match="name the Sentinels and the service: rediss"):
        load_settings()
