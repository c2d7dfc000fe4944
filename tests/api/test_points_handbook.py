"""The worked examples of docs/points.md, told to the real application at the hours that stand beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from loyalty.app import create_app
from loyalty.auth import service as auth
from loyalty.auth.model import ALL_SCOPES
from loyalty.config import Settings
from loyalty.configuration import service as configuration
from loyalty.configuration.text import read
from loyalty.infra.http.endpoint import EXTENSION
from loyalty.infra.mongo import Mongo
from loyalty.programs import service as programs
from loyalty.programs.policies import Policies, WalletPolicy
from loyalty.rules.facts import FIELDS, OPEN, PERIODS
from tests.servers import REPOSITORY

CHAPTER = REPOSITORY / "docs" / "points.md"
EXAMPLES = [read(block) for block in re.findall(r"^```yaml\n(.*?)^```$", CHAPTER.read_text(), re.M | re.S)]
START = datetime(2020, 1, 1, tzinfo=timezone.utc)


class Teller:
    """The application with a clock that a story sets."""

    def __init__(self, database: Mongo, mongo_uri: str, folder: Path, document: Mapping[str, Any]) -> None:
        self.now = START
        settings = document.get("program", {})
        program = programs.create(
            database,
            id="handbook",
            name="Handbook",
            currency=settings.get("currency", "USD"),
            timezone=settings.get("timezone", "UTC"),
            clock=self.clock,
        )
        self.zone = ZoneInfo(program.timezone)
        configuration.apply(
            database,
            configuration.present(database, program.id),
            configuration.parse(json.dumps(document)),
            applied_by="test",
            clock=self.clock,
        )
        _, secret = auth.create_key(
            database, program=program.id, mode=program.mode, name="test", scopes=ALL_SCOPES, clock=self.clock
        )
        self.headers = {"Authorization": f"Bearer {secret}"}
        app = create_app(
            Settings(
                mongo_uri=mongo_uri,
                mongo_database=database.name,
                secret_key="s" * 40,
                storage_path=folder,
                log_level="error",
            ),
            clock=self.clock,
        )
        self.services = app.extensions[EXTENSION].services
        self.app = app.test_client()

    def close(self) -> None:
        self.services.db.client.close()

    def clock(self) -> datetime:
        return self.now

    def at(self, local: str) -> None:
        self.now = datetime.fromisoformat(local).replace(tzinfo=self.zone).astimezone(timezone.utc)

    def ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        answer = self.app.open(path, method=method, json=body, headers=self.headers)
        return answer.status_code, answer.get_json()


def differences(shown: Any, given: Any, path: str = "") -> Iterator[str]:
    """Where `given` is not what is `shown`; fields and items that are not shown may be anything."""
    if isinstance(shown, dict) and isinstance(given, dict):
        for name, value in shown.items():
            yield from differences(value, given.get(name, "absent"), f"{path}.{name}")
    elif isinstance(shown, list) and isinstance(given, list) and len(shown) == len(given):
        for place, pair in enumerate(zip(shown, given, strict=True)):
            yield from differences(*pair, f"{path}.{place}")
    elif shown != given:
        yield f"{path}: shown {shown!r}, given {given!r}"


def at_path(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    return value


def filled(value: Any, remembered: Mapping[str, str]) -> Any:
    """`{name}` in texts stands for what an earlier answer said."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: remembered[match[1]], value)
    if isinstance(value, dict):
        return {name: filled(inner, remembered) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, remembered) for inner in value]
    return value


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["example"])
def test_an_example_of_the_chapter_is_true(
    example: dict[str, Any], database: Mongo, mongo_uri: str, tmp_path: Path
) -> None:
    with closing(Teller(database, mongo_uri, tmp_path, example["program"])) as teller:
        tell(teller, example["story"])


def tell(teller: Teller, story: list[dict[str, Any]]) -> None:
    remembered: dict[str, str] = {}
    for step in story:
        teller.at(step["at"])
        method = "POST" if "post" in step else "GET"
        path = filled(step[method.lower()], remembered)
        status, given = teller.ask(method, path, filled(step.get("body"), remembered))
        assert status == step.get("status", 201 if method == "POST" and status == 201 else 200), given
        assert list(differences(step.get("answer", {}), given)) == [], (
            f"{step['at']} {path}: {json.dumps(given, indent=1)}"
        )
        for name, where in step.get("remember", {}).items():
            remembered[name] = at_path(given, where)


def table_of_fields() -> str:
    """The fields of conditions; the counters of all periods in one row."""
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in FIELDS.items():
        if not name.startswith("counters."):
            rows.append(f"| `{name}` | {field.kind} | {field.meaning} |")
        elif name.endswith(f".{PERIODS[0]}"):
            short = name.rpartition(".")[0]
            meaning = field.meaning.replace(f" ({PERIODS[0]})", "")
            rows.append(f"| `{short}.…` ({', '.join(PERIODS)}) | {field.kind} | {meaning} |")
    periods = ", ".join(PERIODS)
    rows.append(
        f"| `counters.points.<wallet>.…` ({periods}) | integer | Points earned in the wallet before this event. |"
    )
    rows += [f"| `{name}.…` | anything | The program's own names. |" for name in OPEN]
    return "\n".join(rows)


def table_of_policies() -> str:
    rows = ["| policy | default | meaning |", "|---|---|---|"]
    for model, prefix in ((WalletPolicy, "wallets.…."), (Policies, "")):
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            shown = (
                json.dumps(default.model_dump(mode="json", exclude_none=True))
                if hasattr(default, "model_dump")
                else None
            )
            if name != "wallets":
                rows.append(f"| `{prefix}{name}` | `{shown or json.dumps(default)}` | {field.description} |")
    return "\n".join(rows)


@pytest.mark.parametrize(("name", "table"), [("fields", table_of_fields()), ("policies", table_of_policies())])
def test_a_table_of_the_chapter_is_what_the_code_says(name: str, table: str) -> None:
    """Written by the code: paste what the failure shows."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", CHAPTER.read_text(), re.S)
    assert found is not None
    assert found[1] == table
