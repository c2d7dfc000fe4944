"""The verbs around backups: what reaches the playbooks, and what is refused before anything happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loyalty.ops import backup_cli, cli, drills
from loyalty.ops.ansible import Progress, Stopped
from loyalty.ops.errors import Failure

PASSED = {
    "ok": True,
    "at": "2026-11-28T12:00:00Z",
    "rto_seconds": 41.0,
    "rpo_seconds": 12.0,
    "entries": 7,
    "verified": True,
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the verbs hand to Ansible; nothing is run."""
    seen: list[Any] = []

    def run_playbook(name: str, site_name: str, _: object, **options: Any) -> None:
        seen.append((name, options.get("extra"), list(options.get("options", []))))

    monkeypatch.setattr(backup_cli, "run_playbook", run_playbook)
    return seen


@pytest.mark.parametrize(
    ("words", "playbook", "variables", "options"),
    [
        (["backup"], "backup", {}, []),
        (["backup", "--files", "--full"], "backup", {"backup_kinds": ["full", "files"]}, []),
        (["backup", "--check"], "backup", {}, ["--check"]),
        (
            ["restore", "--to", "2026-11-22T14:05:07Z", "--confirm", "shop"],
            "restore",
            {"backup_restore_to": "2026-11-22T14:05:07Z", "confirm": "shop"},
            [],
        ),
        (["restore", "--check"], "restore", {"backup_restore_to": "latest", "confirm": ""}, ["--check"]),
        (
            ["restore", "--confirm", "shop", "--new-passwords"],
            "restore",
            {"backup_restore_to": "latest", "backup_restore_users": False, "confirm": "shop"},
            [],
        ),
        (
            ["restore", "--into", "scratch"],
            "restore_scratch",
            {"backup_restore_to": "latest", "backup_scratch_state": "present"},
            [],
        ),
        (
            ["restore", "--into", "scratch", "--end"],
            "restore_scratch",
            {"backup_restore_to": "latest", "backup_scratch_state": "absent"},
            [],
        ),
    ],
)
def test_what_an_operator_says_reaches_the_playbook(
    runs: list[Any], words: list[str], playbook: str, variables: dict[str, Any], options: list[str]
) -> None:
    answer = CliRunner().invoke(cli.cli, [*words, "--site", "shop"])
    assert answer.exit_code == 0, answer.output
    assert runs == [(playbook, variables, options)]


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "--to", "yesterday"],
        ["restore", "--to", "2026-11-22 14:05"],
        ["restore", "--end"],
        ["restore", "--into", "scratch", "--new-passwords"],
        ["restore", "--drive", "."],
        ["restore", "--drive", ".", "--confirm", "other"],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything(runs: list[Any], words: list[str]) -> None:
    from loyalty.ops.errors import Refusal

    answer = CliRunner().invoke(cli.cli, [*words, "--site", "shop"])
    assert isinstance(answer.exception, Refusal)
    assert answer.exception.remedy
    assert runs == []


def test_new_servers_get_the_folder_then_everything_then_the_data(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def bring_home(site: str, drive: Path, password: str) -> str:
        runs.append((site, drive, password))
        return "as it was"

    monkeypatch.setattr(backup_cli, "bring_home", bring_home)
    words = ["restore", "--drive", str(tmp_path), "--site", "shop", "--confirm", "shop"]
    answer = CliRunner().invoke(cli.cli, words, input="open sesame\n")
    assert answer.exit_code == 0, answer.output
    assert runs == [
        ("shop", tmp_path, "open sesame"),
        # Nothing is taken of the empty site: it would come after what is to be restored.
        ("site", {"backup_timers_enabled": False}, ["--skip-tags", "verify"]),
        ("restore", {"backup_restore_to": "latest", "confirm": "shop"}, []),
    ]
    assert "open sesame" not in answer.output


@pytest.mark.parametrize(
    ("play", "again"),
    [("4 Give the data to the replica set", True), ("Look at the site from inside and outside", False)],
)
def test_a_restore_that_is_done_is_not_to_be_given_again(
    monkeypatch: pytest.MonkeyPatch, play: str, again: bool
) -> None:
    def run_playbook(*_: object, **__: object) -> None:
        raise Stopped("stopped", "give the same command again", "", Progress(play=play))

    monkeypatch.setattr(backup_cli, "run_playbook", run_playbook)
    answer = CliRunner().invoke(cli.cli, ["restore", "--site", "shop", "--confirm", "shop"])
    assert isinstance(answer.exception, Failure)
    assert (answer.exception.remedy == "give the same command again") == again


def drilling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: dict[str, Any] | None, *, stops: bool) -> None:
    def run_playbook(*_: object, **__: object) -> None:
        if result is not None:
            with (tmp_path / "restore_drills.jsonl").open("a") as history:
                history.write(json.dumps(result) + "\n")
        if stops:
            raise Stopped("stopped", "look", "", Progress())

    monkeypatch.setattr(drills, "run_playbook", run_playbook)
    monkeypatch.setattr(drills, "site_variables", lambda site: {"site_directory": tmp_path})


def test_a_drill_says_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drilling(monkeypatch, tmp_path, PASSED, stops=False)
    answer = CliRunner().invoke(cli.cli, ["drill", "restore", "--json", "--site", "shop"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout) == PASSED


def test_a_drill_that_is_not_passed_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drilling(monkeypatch, tmp_path, PASSED | {"ok": False, "verified": False}, stops=True)
    answer = CliRunner().invoke(cli.cli, ["drill", "restore", "--json", "--site", "shop"])
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["ok"] is False


def test_a_drill_that_stopped_does_not_pass_for_the_one_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "restore_drills.jsonl").write_text(json.dumps(PASSED) + "\n")
    drilling(monkeypatch, tmp_path, None, stops=True)
    answer = CliRunner().invoke(cli.cli, ["drill", "restore", "--json", "--site", "shop"])
    assert isinstance(answer.exception, Stopped)
    assert answer.stdout == ""
