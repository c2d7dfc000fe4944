"""The operator's commands, run as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.programs import service as programs
from tests.integration.jobs.ledger import earn
from tests.servers import REPOSITORY

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(empty_database: Mongo, mongo_uri: str, tmp_path: Path) -> Run:
    """`python -m loyalty …` on an empty database; keyword arguments change the environment."""

    def command(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "loyalty", *arguments],
            cwd=REPOSITORY,
            env={
                "PATH": os.environ["PATH"],
                "LOYALTY_MONGO_URI": mongo_uri,
                "LOYALTY_MONGO_DATABASE": empty_database.name,
                "LOYALTY_SECRET_KEY": "s" * 32,
                "LOYALTY_SEAL_KEY": "A" * 43 + "=",
                "LOYALTY_STORAGE_PATH": str(tmp_path),
                **environment,
            },
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return command


BAKERY = ("program", "create", "bakery", "--name", "Corner Bakery", "--currency", "USD")


def test_a_new_installation_and_again(run: Run, empty_database: Mongo) -> None:
    first = run("migrate")
    assert first.returncode == 0, first.stderr
    assert "index ledger.keys" in first.stdout.splitlines()
    assert run("migrate").stdout == "Nothing to do: the database is up to date.\n"
    assert empty_database.migrations.count_documents({}) == 1
    assert run(*BAKERY).stdout == "The program bakery was created.\n"
    again = run(*BAKERY)
    assert (again.returncode, again.stdout) == (0, "The program bakery exists already.\n")
    other = run(*BAKERY, "--timezone", "Europe/Berlin")
    assert (other.returncode, other.stdout) == (0, "The program bakery exists already.\n")
    assert "Its timezone stays as it is" in other.stderr
    euros = run("program", "create", "bakery", "--name", "Corner Bakery", "--currency", "EUR")
    assert euros.returncode == 1
    assert "counts in USD" in euros.stderr


def test_keys_from_birth_to_end(run: Run) -> None:
    run("migrate")
    run(*BAKERY)
    made = run("key", "create", "bakery", "--name", "till", "--scope", "events:write", "--expires-days", "30")
    secret = made.stdout.strip()
    assert (made.returncode, len(secret), secret[:3]) == (0, 46, "lk_")
    imported = run("key", "import", "bakery", "--name", "site", "--all-scopes", stdin="lk_" + "x" * 43 + "\n")
    again = run("key", "import", "bakery", "--name", "site", "--all-scopes", stdin="lk_" + "x" * 43 + "\n")
    assert imported.stdout == again.stdout
    listed = json.loads(run("key", "list", "bakery", "--json").stdout)
    assert [key["name"] for key in listed] == ["till", "site"]
    assert secret not in run("key", "list", "bakery").stdout
    revoked = run("key", "revoke", "bakery", listed[0]["id"])
    assert revoked.returncode == 0, revoked.stderr
    assert json.loads(run("key", "list", "bakery", "--json").stdout)[0]["revoked_at"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("key", "create", "nowhere", "--name", "x", "--all-scopes"), 1, "There is no program 'nowhere'"),
        (("key", "create", "bakery", "--name", "x"), 2, "Give --all-scopes"),
        (("key", "create", "bakery", "--name", "x", "--all-scopes", "--scope", "events:write"), 2, "Give --all-scopes"),
        (("key", "import", "bakery", "--name", "x", "--all-scopes"), 2, "Standard input does not hold an API key"),
        (("program", "create", "X Y", "--name", "x", "--currency", "USD"), 2, "id:"),
        (("program", "create", "x", "--name", "x", "--currency", "XXQ"), 2, "not an ISO 4217"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_mistakes_are_explained(
    run: Run, empty_database: Mongo, arguments: tuple[str, ...], code: int, says: str
) -> None:
    programs.create(empty_database, id="bakery", name="Corner Bakery", currency="USD", clock=system_clock)
    failed = run(*arguments)
    assert failed.returncode == code
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_wrong_configuration_names_every_variable(run: Run) -> None:
    failed = run("status", LOYALTY_SEAL_KEY="short", LOYALTY_MONGO_URI="localhost")
    assert failed.returncode == 2
    assert "LOYALTY_SEAL_KEY" in failed.stderr
    assert "LOYALTY_MONGO_URI" in failed.stderr


def test_a_dead_database_is_said_in_one_sentence(run: Run) -> None:
    failed = run("ledger", "verify", LOYALTY_MONGO_URI="mongodb://127.0.0.1:1")
    assert failed.returncode == 1
    assert "MongoDB does not answer" in failed.stderr
    assert "Traceback" not in failed.stderr
    status = run("status", "--json", LOYALTY_MONGO_URI="mongodb://127.0.0.1:1")
    assert status.returncode == 1
    assert json.loads(status.stdout)["mongodb"]["primary"] is None


def test_the_ledger_from_the_command_line(run: Run, empty_database: Mongo) -> None:
    run("migrate")
    earn(empty_database, range(1, 6))
    assert run("ledger", "rebuild").stdout == "5 wallets were rebuilt.\n"
    assert run("ledger", "seal").stdout.startswith("Seal 1: 5 entries, ")
    assert run("ledger", "seal").stdout == "Nothing new to seal.\n"
    seal = empty_database.seals.find_one()
    assert seal is not None
    assert run("ledger", "key").stdout == f"{seal['public_key'].hex()}\n"
    whole = run("ledger", "verify", "--progress")
    assert whole.returncode == 0
    assert whole.stdout == "5 members, 5 entries, 1 seals over 5\n50 points available\nThe ledger is whole.\n"
    assert "5 of about 5 entries (100 %)" in whole.stderr
    status = json.loads(run("status", "--json").stdout)
    assert (status["entries"], status["points_available"]) == (5, {"points": 50})
    assert status["last_seal"]["number"] == 1
    assert status["mongodb"]["primary"]
    assert status["redis"] == "not configured"
    assert status["storage"]["free_bytes"] > 0
    empty_database.ledger.update_one({}, {"$currentDate": {"occurred_at": True}})
    broken = run("ledger", "verify", "--json")
    assert broken.returncode == 1
    found = json.loads(broken.stdout)
    assert found["ok"] is False
    assert "its content was changed" in found["defects"][0]["what"]


def test_the_api_document_is_printed(run: Run) -> None:
    document = json.loads(run("openapi").stdout)
    assert document["openapi"].startswith("3.1")
    assert "/v1/files" in document["paths"]


def test_help_teaches(run: Run) -> None:
    text = run("--help").stdout
    for command in ("migrate", "program", "key", "jobs", "ledger", "receipt", "member", "status", "openapi"):
        assert command in text


RULES = """
format: 1
rules:
  rules:
    - {id: base, type: points_per_spend, points: 1, per: "1.00"}
"""


def test_a_sandbox_becomes_the_live_program(run: Run, tmp_path: Path) -> None:
    run("migrate")
    for name in ("bakery", "trial"):
        run("program", "create", name, "--name", "Corner Bakery", "--currency", "USD")
    planned = run("program", "plan", "trial", "-", stdin=RULES)
    assert (planned.returncode, planned.stdout.startswith("/rules/rules: absent -> ")) == (0, True), planned.stderr
    assert run("program", "plan", "trial", "-", stdin=RULES).stdout == planned.stdout
    assert run("program", "apply", "trial", "-", stdin=RULES).stdout == planned.stdout
    assert run("program", "apply", "trial", "-", stdin=RULES).stdout == "No differences.\n"
    tried = run("program", "promote", "trial", "bakery", "--dry-run").stdout
    assert "base" in tried
    assert run("program", "promote", "trial", "bakery").stdout == tried
    files = [tmp_path / "trial.yaml", tmp_path / "bakery.yaml"]
    for file in files:
        file.write_text(run("program", "export", file.stem).stdout)
    assert run("program", "diff", *map(str, files)).stdout == "No differences.\n"


def test_a_document_that_cannot_be_applied_is_refused_with_every_reason(run: Run) -> None:
    run("migrate")
    run(*BAKERY)
    refused = run("program", "apply", "bakery", "-", stdin=RULES.replace("points: 1", "points: 0").replace("1.00", "x"))
    assert refused.returncode == 1
    assert "/rules/rules/0/points" in refused.stderr
    assert "/rules/rules/0/per" in refused.stderr
