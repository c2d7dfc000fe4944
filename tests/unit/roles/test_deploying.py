"""What a deploy decides: who holds the lock, which release is chosen, when a new one loses the traffic again."""

from __future__ import annotations

import fcntl
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError  # type: ignore[import-untyped]

from tests.by_path import load

APP = Path(__file__).parents[3] / "roles" / "app"

choose = load("roles/app/action_plugins/choose_rollback.py").choose
export_version = load("roles/app/action_plugins/export_version.py")
releases = load("roles/app/library/app_releases.py")
watching = load("roles/app/library/watch_release.py")


# --- The lock ---------------------------------------------------------------------------------------------------------


def lock(folder: Path, token: str, **options: Any) -> dict[str, Any]:
    """Run the module as a server does."""
    arguments = {"path": str(folder / "deploy.lock"), "token": token, **options}
    done = subprocess.run(
        [sys.executable, str(APP / "library" / "deploy_lock.py")],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_lock_has_one_holder_who_is_named_to_the_others(tmp_path: Path) -> None:
    assert "failed" not in lock(tmp_path, "a", owner="alice", reason="deploy: v2")
    refused = lock(tmp_path, "b", owner="bob", reason="deploy: v3")
    assert refused["failed"]
    assert "alice works here since" in refused["msg"]
    assert "deploy: v2" in refused["msg"]
    assert "./appliance unlock --force" in refused["msg"]
    assert "token" not in refused["holder"]


def test_the_holder_prolongs_the_lock_and_only_the_holder_gives_it_back(tmp_path: Path) -> None:
    lock(tmp_path, "a", owner="alice", minutes=1)
    before = json.loads((tmp_path / "deploy.lock").read_text())
    lock(tmp_path, "a", owner="alice", minutes=5)
    after = json.loads((tmp_path / "deploy.lock").read_text())
    assert after["expires"] > before["expires"]
    assert after["since"] == before["since"]
    lock(tmp_path, "b", state="absent")
    assert (tmp_path / "deploy.lock").exists()
    assert not lock(tmp_path, "a", state="absent")["changed"]
    assert not (tmp_path / "deploy.lock").exists()


def test_a_lock_runs_out(tmp_path: Path) -> None:
    lock(tmp_path, "a", owner="alice", minutes=0)
    assert "failed" not in lock(tmp_path, "b", owner="bob")
    assert json.loads((tmp_path / "deploy.lock").read_text())["owner"] == "bob"


def test_force_opens_the_lock_of_somebody_else_and_says_whose_it_was(tmp_path: Path) -> None:
    lock(tmp_path, "a", owner="alice", reason="deploy: v2")
    opened = lock(tmp_path, "", state="absent", force=True)
    assert opened["changed"]
    assert opened["holder"]["owner"] == "alice"
    assert not lock(tmp_path, "", state="absent", force=True)["changed"]


def test_of_many_who_come_at_once_one_gets_the_lock(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda name: lock(tmp_path, name, owner=name), "abcdef"))
    assert sum("failed" not in answer for answer in answers) == 1


def test_a_module_that_is_done_keeps_no_file_locked(tmp_path: Path) -> None:
    """Mitogen runs the next module in the same process."""
    module = load("roles/app/library/deploy_lock.py")
    with pytest.raises(SystemExit), module.alone(tmp_path):
        raise SystemExit  # as exit_json does
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_lock_is_for_root_alone(tmp_path: Path) -> None:
    lock(tmp_path, "a", owner="alice")
    assert (tmp_path / "deploy.lock").stat().st_mode & 0o777 == 0o600


# --- The release ------------------------------------------------------------------------------------------------------


def host(active: str, *installed: str, previous: str = "", since: str = "", void: str = "") -> dict[str, Any]:
    """A host with releases that are named by their sha."""
    return {
        "active": {"release": active, "previous": previous, "since": since},
        "installed": [
            {
                "release": name,
                "sha": name,
                "previous": name == previous,
                "void": {"reason": "bad"} if name == void else None,
            }
            for name in installed
        ],
    }


def test_back_means_the_release_before() -> None:
    hosts = {"box1": host("r3", "r1", "r2", "r3", previous="r1"), "box2": host("r3", "r2", "r3", previous="r1")}
    assert choose(hosts) == {"release": "r1", "bad": "r3"}


def test_a_void_release_is_not_chosen_but_can_be_named() -> None:
    hosts = {"box1": host("r3", "r1", "r2", "r3", previous="r2", void="r2")}
    assert choose(hosts) == {"release": "r1", "bad": "r3"}
    assert choose(hosts, "r2") == {"release": "r2", "bad": "r3"}


def test_after_a_deploy_that_stopped_half_way_all_go_where_the_others_are() -> None:
    hosts = {
        "box1": host("r3", "r1", "r2", "r3", previous="r2", since="2026-01-02T00:00:00Z"),
        "box2": host("r2", "r1", "r2", previous="r1", since="2026-01-01T00:00:00Z"),
    }
    assert choose(hosts) == {"release": "r2", "bad": "r3"}


@pytest.mark.parametrize(
    ("hosts", "named", "remedy"),
    [
        ({"box1": host("r1", "r1")}, "", "./appliance deploy VERSION"),
        ({"box1": host("r2", "r1", "r2", void="r1")}, "", "./appliance releases"),
        ({"box1": host("r2", "r1", "r2")}, "r9", "there are r1, r2"),
        ({"box1": host("r2", "r1", "r2")}, "r2", "./appliance releases"),
        ({"box1": {"active": {}, "installed": []}}, "", "./appliance apply"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_the_way_out(hosts: Any, named: str, remedy: str) -> None:
    with pytest.raises(AnsibleError, match=remedy):
        choose(hosts, named)


def test_the_survey_sees_releases_marks_and_lock(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-aa", "20260102T000000Z-bb"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        described = {"release": name, "sha": name.split("-")[1]}
        (tmp_path / "releases" / name / "RELEASE.json").write_text(json.dumps(described))
    (tmp_path / "releases" / "20260103T000000Z-cc").mkdir()  # one that was not finished
    (tmp_path / "void").mkdir()
    (tmp_path / "void" / "bb.json").write_text('{"reason": "it was slow"}')
    (tmp_path / "active.json").write_text('{"release": "20260102T000000Z-bb", "previous": "20260101T000000Z-aa"}')
    (tmp_path / "deploy.lock").write_text('{"owner": "alice", "token": "secret", "expires": 1000}')
    seen = releases.look(tmp_path, now=999)
    assert [(found["sha"], found["active"], found["previous"]) for found in seen["installed"]] == [
        ("aa", False, True),
        ("bb", True, False),
    ]
    assert seen["installed"][1]["void"] == {"reason": "it was slow"}
    assert seen["lock"] == {"owner": "alice", "expires": 1000}
    assert releases.look(tmp_path, now=1000)["lock"] == {}
    assert releases.look(tmp_path / "nothing", now=0) == {"active": {}, "installed": [], "void": {}, "lock": {}}


def test_a_version_is_exported_as_it_was(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "loyalty").mkdir(parents=True)

    def git(*words: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.test")
        subprocess.run(["git", *identity, "-C", str(checkout), *words], check=True, capture_output=True)

    git("init", "--quiet")
    for text in ("one", "two"):
        (checkout / "loyalty" / "code.py").write_text(text)
        git("add", ".")
        git("commit", "--quiet", "--message", text)
        git("tag", text)
    commit = export_version.commit_of(checkout, "one")
    folder = export_version.export(checkout, commit, "loyalty", tmp_path / "sources")
    assert (folder / "code.py").read_text() == "one"
    assert export_version.export(checkout, commit, "loyalty", tmp_path / "sources") == folder
    for nonsense in ("three", "--output=/tmp/x", "one^{tree}"):
        with pytest.raises(AnsibleError, match="git tag"):
            export_version.commit_of(checkout, nonsense)


# --- The watch --------------------------------------------------------------------------------------------------------


class Release(BaseHTTPRequestHandler):
    """A release that answers as its server was told to."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Any]:
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "green.sock"), Release) as server:
        server.daemon_threads = True
        server.status, server.asked = 200, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def wanted(tmp_path: Path, release: Any) -> dict[str, Any]:
    """What the module is given; the log is there already, so that nobody has to wait for it."""
    return {
        "socket": str(tmp_path / "green.sock"),
        "api_key": "key",
        "seconds": 0,
        "log": str(tmp_path / "watch.log"),
        "requests_min": 20,
        "error_percent_max": 1.0,
        "p99_ms_max": 500,
    }


def line(status: str, seconds: str = "0.010", colour: str = "green", long: int = 0) -> str:
    return f"unix:{{folder}}/{colour}.sock|{status}|{seconds}|{long}\n"


def write(wanted: dict[str, Any], *lines: str) -> None:
    log = Path(wanted["log"])
    log.write_text("".join(lines).replace("{folder}", str(log.parent)))


def test_a_release_that_answers_stays(wanted: dict[str, Any], release: Any) -> None:
    write(wanted, line("200") * 50)
    seen, breach = watching.watch(wanted)
    assert (breach, seen.requests, seen.errors, seen.p99_ms) == ("", 50, 0, 10)
    assert release.asked == [("/readyz", "Bearer key"), ("/v1/members?limit=1", "Bearer key")]


@pytest.mark.parametrize("status", ["500", "502", "504"])
def test_a_release_that_fails_its_clients_goes(wanted: dict[str, Any], status: str) -> None:
    write(wanted, line("200") * 19, line(status))
    assert watching.watch(wanted)[1] == "1 of 20 requests failed (500, 502 or 504)"


def test_a_failure_that_the_old_colour_made_good_is_a_failure(wanted: dict[str, Any]) -> None:
    both = line("500, 200", "0.001, 0.020").replace("green.sock", "green.sock, unix:{folder}/blue.sock")
    write(wanted, line("200") * 19, both)
    assert "1 of 20" in watching.watch(wanted)[1]


@pytest.mark.parametrize("status", ["503", "507", "429", "404"])
def test_what_is_no_fault_of_a_release_is_not_held_against_it(wanted: dict[str, Any], status: str) -> None:
    write(wanted, line(status) * 40)
    assert watching.watch(wanted)[1] == ""


def test_what_the_old_colour_answers_does_not_count(wanted: dict[str, Any]) -> None:
    write(wanted, line("500", colour="blue") * 40, "-|-|-|0\n" * 40)
    seen, breach = watching.watch(wanted)
    assert (seen.requests, breach) == (0, "")


def test_too_few_requests_prove_nothing(wanted: dict[str, Any]) -> None:
    write(wanted, line("500") * 19)
    assert watching.watch(wanted)[1] == ""


def test_a_slow_release_goes_and_batches_are_not_slow(wanted: dict[str, Any]) -> None:
    write(wanted, line("200") * 99, line("200", "30.000", long=1) * 50)
    assert watching.watch(wanted)[1] == ""
    write(wanted, line("200") * 97, line("200", "0.501") * 3)
    assert watching.watch(wanted)[1] == "99 of 100 requests took up to 501 ms; 500 ms are borne"


def test_a_release_that_answers_no_question_goes_without_any_client(wanted: dict[str, Any], release: Any) -> None:
    release.status = 500
    wanted["log"] = None
    seen, breach = watching.watch(wanted)
    assert breach == "it answered 3 questions in a row with /readyz: 500"
    assert seen.questions == 3
    wanted["socket"] += ".gone"
    assert "No such file" in watching.watch(wanted)[1]


def test_the_watch_ends_as_soon_as_it_knows(wanted: dict[str, Any], release: Any) -> None:
    release.status = 502
    wanted["seconds"] = 3600
    assert watching.watch(wanted)[1]


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "watch.log"
    lines = watching.new_lines(log)
    assert next(lines) == []
    log.write_text("a|1\nb|")
    assert next(lines) == ["a|1"]
    with log.open("a") as stream:
        stream.write("2\n")
    assert next(lines) == ["b|2"]
