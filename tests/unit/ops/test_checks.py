"""Every check of the catalogue is content with a healthy site of any shape, and complains of what is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from loyalty.ops.checks import samples
from loyalty.ops.checks.catalogue import Finding, Limits
from loyalty.ops.checks.judge import CATALOGUE, judge
from loyalty.ops.checks.screen import WIDTH, screen
from loyalty.ops.site import topologies
from tests.by_path import load
from tests.unit.ops.sites import RELEASE, cut_power, disk, healthy

Break = Callable[[dict[str, Any]], Any]


def state(seen: dict[str, Any], host: str) -> Any:
    return seen["hosts"][host]["state"]


def members(seen: dict[str, Any], states: dict[str, str]) -> None:
    for host in seen["hosts"].values():
        for member in (host["mongodb"] or {}).get("members", ()):
            member["state"] = states.get(member["host"], member["state"])


def lagging(seen: dict[str, Any]) -> None:
    for host in seen["hosts"].values():
        for member in (host["mongodb"] or {}).get("members", ()):
            if member["host"] == "db2":
                member["lag_seconds"] = 42.0


def stop(seen: dict[str, Any], host: str, unit: str) -> None:
    (found,) = (found for found in state(seen, host)["units"] if found["unit"] == f"{unit}.service")
    found |= {"state": "inactive", "sub_state": "dead"}


def edge(*, drawn: bool, is_open: bool) -> dict[str, Any]:
    row = {"to": "db1", "port": 27017, "service": "mongodb", "why": "the application reads", "tls": True}
    return {**row, "drawn": drawn, "open": is_open, "error": "" if is_open else "timed out"}


def filling(seen: dict[str, Any]) -> None:
    seen["disks"] = [
        {"at": day * 86400, "host": "db1", "path": "/var/lib/mongodb", "free_bytes": (20 - day) * 10**9}
        for day in range(10)
    ]


BROKEN: dict[str, tuple[str, Break]] = {
    "reachable": ("db2", lambda seen: cut_power(seen, "db2")),
    "unit": ("box1", lambda seen: stop(seen, "box1", "nginx")),
    "disk": ("db1", lambda seen: state(seen, "db1")["disks"].update({"/var/lib/mongodb": disk(9)})),
    "mount": ("box2", lambda seen: state(seen, "box2")["unmounted"].append("/mnt/storage")),
    "certificate": ("box1", lambda seen: state(seen, "box1")["certificates"]["site"].update(days_left=13)),
    "release": ("site", lambda seen: state(seen, "box2")["release"].update(release="20261128T081500Z-0123456789ac")),
    "colour": ("box1", lambda seen: state(seen, "box1").update(upstream="green")),
    "clock": ("db3", lambda seen: state(seen, "db3")["time"].update(synchronised=False)),
    "stale": ("db1", lambda seen: state(seen, "db1")["deep"]["stale"].append(
        {"unit": "mongod.service", "what": "/etc/mongodb/mongod.conf", "remedy": "systemctl restart mongod"})),
    "secrets": ("box1", lambda seen: state(seen, "box1")["deep"]["open_secrets"].append(
        {"path": "/etc/loyalty/tls/site.key", "mode": "0644", "owner": "root"})),
    "failed units": ("db1", lambda seen: state(seen, "db1")["deep"]["failed_units"].append("logrotate.service")),
    "preflight": ("db1", lambda seen: seen["hosts"]["db1"]["preflight"].append(
        {"check": "memory", "found": "512 MB", "remedy": "Give the server more."})),
    "restarts": ("db1", lambda seen: state(seen, "db1")["units"][2].update(restarts=3)),
    "reboot": ("db1", lambda seen: state(seen, "db1")["deep"]["reboot"].append("linux-image-amd64")),
    "disk forecast": ("db1", filling),
    "floating address": ("site", lambda seen: state(seen, "box1")["addresses"].pop()),
    "outside": ("box1", lambda seen: seen["outside"][0].update(ok=False, found="refused", remedy="look")),
    "edge": ("box1", lambda seen: seen["hosts"]["box1"]["edges"].append(edge(drawn=True, is_open=False))),
    "closed": ("db1", lambda seen: seen["hosts"]["backup1"]["edges"].append(edge(drawn=False, is_open=True))),
    "database": ("db2", lambda seen: seen["hosts"]["db2"].update(mongodb={"error": "connection refused"})),
    "primary": ("site", lambda seen: members(seen, {"db1": "SECONDARY"})),
    "member": ("db3", lambda seen: members(seen, {"db3": "RECOVERING"})),
    "lag": ("db2", lagging),
    "oplog window": ("db1", lambda seen: seen["hosts"]["db1"]["mongodb"].update(oplog_hours=3.0)),
    "redis": ("db2", lambda seen: state(seen, "db2")["redis"].update(link="down")),
    "lease": ("site", lambda seen: seen["application"]["lease"].update(holder=None)),
    "application": ("site", lambda seen: seen["application"]["problems"].append("The job failed: x. See: y")),
    "ledger": ("site", lambda seen: seen.update(ledger={
        "ok": False, "defects": [{"where": "chain 7", "what": "hash"}], "chains": 1, "entries": 1, "available": {}})),
    "sentinel": ("db3", lambda seen: state(seen, "db3").update(sentinel="NOQUORUM 1 usable Sentinels.")),
    "copies": ("db2", lambda seen: state(seen, "db2")["files"].update(served=False)),
    "heal": ("site", lambda seen: state(seen, "db1")["files"]["waiting"].update(db3=12)),
    "nodes": ("box2", lambda seen: state(seen, "box1")["nodes"].update(box2="DOWN Layer7 wrong status 503")),
    "backup": ("backup1", lambda seen: state(seen, "backup1")["backup"].update(log_reaches="2026-11-28T11:00:00Z")),
    "backup alarm": ("backup1", lambda seen: state(seen, "backup1")["backup"]["alarms"].append(
        "log: The log has a gap between A and B. Type: loyalty-backup full")),
    "backups kept": ("site", lambda seen: (
        seen["hosts"]["backup1"]["services"].remove("backup"), state(seen, "backup1").update(backup=None))),
    "second copy": ("backup1", lambda seen: state(seen, "backup1")["backup"].update(second_copy=False)),
    "restore drill": ("backup1", lambda seen: state(seen, "backup1")["backup"]["drill"].update(
        at="2026-11-19T06:12:00Z")),
    "restore": ("site", lambda seen: seen.update(restore={
        "id": "20261128T110000Z", "to": "latest", "began": "2026-11-28T11:00:00Z"})),
    "failover drill": ("site", lambda seen: seen["drills"].update(failover=None)),
}  # by hand: a line holds what belongs together  # fmt: skip


def found(seen: dict[str, Any]) -> list[Finding]:
    return judge(seen, Limits())


@pytest.mark.parametrize("shape", topologies())
def test_a_healthy_site_of_any_shape_has_no_findings(shape: str) -> None:
    # A box alone has nobody who could keep its backups.
    assert [finding.check for finding in found(healthy(shape))] == (["backups kept"] if shape == "one-box" else [])


def test_every_check_is_broken_here() -> None:
    assert set(BROKEN) == set(CATALOGUE)


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_fails_and_no_other(name: str) -> None:
    host, break_it = BROKEN[name]
    seen = healthy()
    break_it(seen)
    (finding,) = found(seen)
    assert (finding.check, finding.host, finding.level) == (name, host, CATALOGUE[name].level)
    assert finding.found
    assert len(finding.remedy) > 3


def test_what_a_young_target_has_not_had_time_for_is_no_problem() -> None:
    seen = healthy()
    young = state(seen, "backup1")["backup"]
    young |= {"created_at": "2026-11-28T11:50:00Z", "last": {}, "good": {}, "log_reaches": None, "drill": None}
    assert found(seen) == []
    young["created_at"] = "2026-11-19T11:50:00Z"
    assert {(finding.check, finding.found) for finding in found(seen)} == {
        ("backup", "the last copy of the database is 216 h old"),
        ("backup", "the last copy of the files is 216 h old"),
        ("backup", "the last copy of what changed in the database is 216 h old"),
        ("backup", "the last verification of the archives is 216 h old"),
        ("backup", "the last removal of what need not be kept is 216 h old"),
        ("backup", "the last second copy is 216 h old"),
        ("backup", "the last dump of the documents is 216 h old"),
        ("backup", "the archived log ends 12970 min ago: what was written since is on the servers alone"),
        ("restore drill", "its backups were never restored"),
    }


@pytest.mark.parametrize(
    ("kind", "ended", "age"),
    [
        ("full", "2026-11-27T09:00:00Z", "27 h"),
        ("files", "2026-11-27T09:00:00Z", "27 h"),
        ("verify", "2026-11-27T09:00:00Z", "27 h"),
        ("prune", "2026-11-27T09:00:00Z", "27 h"),
        ("copy", "2026-11-27T09:00:00Z", "27 h"),
        ("dump", "2026-11-20T09:00:00Z", "195 h"),
    ],
)
def test_each_kind_that_is_late_is_told_with_its_remedy(kind: str, ended: str, age: str) -> None:
    seen = healthy()
    backup = state(seen, "backup1")["backup"]
    backup["good"][kind] = backup["last"][kind]["ended"] = ended
    (finding,) = found(seen)
    assert finding.check == "backup"
    assert finding.found.endswith(f"is {age} old")
    assert f"systemctl start loyalty-backup@{kind}" in finding.remedy


def test_a_log_that_is_archived_all_the_time_is_late_after_minutes() -> None:
    seen = healthy()
    backup = state(seen, "backup1")["backup"]
    backup["log_reaches"] = "2026-11-28T11:57:00Z"
    assert found(seen) == []
    backup["log_continuous"] = True
    (finding,) = found(seen)
    assert finding.found.startswith("the archived log ends 3 min ago")


def test_a_log_that_ends_in_the_future_is_not_taken_for_young() -> None:
    seen = healthy()
    state(seen, "backup1")["backup"]["log_reaches"] = "2026-11-28T13:00:00Z"
    (finding,) = found(seen)
    assert finding.found.startswith("the archived log ends 60 min from now")
    assert "chronyc" in finding.remedy


def test_a_full_brings_what_changed_as_an_incremental_does() -> None:
    seen = healthy()
    backup = state(seen, "backup1")["backup"]
    backup["good"] |= {"full": "2026-11-28T01:42:00Z", "incremental": "2026-11-27T19:14:00Z"}
    (finding,) = found(seen)
    assert finding.found == "the last copy of what changed in the database is 10 h old"
    backup["good"]["full"] = "2026-11-28T04:42:00Z"
    assert found(seen) == []


def test_a_second_copy_is_late_only_where_there_is_a_place_for_it() -> None:
    seen = healthy()
    backup = state(seen, "backup1")["backup"]
    del backup["good"]["copy"], backup["last"]["copy"]
    assert [(finding.check, finding.level) for finding in found(seen)] == [("backup", "problem")]
    backup["second_copy"] = False
    (finding,) = found(seen)
    assert (finding.check, finding.level) == ("second copy", "notice")
    assert "backup_copy_to" in finding.remedy


def test_a_failed_backup_is_told_once_with_its_reason() -> None:
    seen = healthy()
    backup = state(seen, "backup1")["backup"]
    backup["last"]["full"] = {"ended": "2026-11-28T01:42:00Z", "ok": False, "error": "no room"}
    backup["good"]["full"] = "2026-11-20T01:42:00Z"
    (finding,) = found(seen)
    assert finding.found == "the last backup full failed: no room"
    assert "systemctl start loyalty-backup@full" in finding.remedy


def test_a_target_that_is_gone_says_so_and_nothing_else() -> None:
    seen = healthy()
    state(seen, "backup1")["backup"] = {"error": "No such file or directory"}
    (finding,) = found(seen)
    assert (finding.check, finding.level) == ("backup", "problem")
    assert "NONE" in screen(seen, [finding])


@pytest.mark.parametrize("name", [name for name, check in CATALOGUE.items() if check.deep])
def test_status_does_not_look_deep(name: str) -> None:
    seen = healthy()
    seen["deep"] = False
    BROKEN[name][1](seen)
    assert found(seen) == []


class TestRows:
    def test_a_site_with_every_host_away_is_still_judged(self) -> None:
        seen = healthy()
        for name in seen["hosts"]:
            cut_power(seen, name)
        seen["application"] = None
        assert {finding.check for finding in found(seen)} == {"reachable"}
        assert "AWAY" in screen(seen, found(seen))

    def test_the_application_that_is_down_hides_nothing_else(self) -> None:
        seen = healthy("one-box")
        seen["application"] = None
        stop(seen, "box1", "loyalty@blue")
        assert [finding.check for finding in found(seen) if finding.level == "problem"] == ["unit", "application"]
        assert "primary box1" in screen(seen, found(seen))

    def test_the_only_member_away_leaves_nothing_to_read(self) -> None:
        seen = healthy("two-server")
        cut_power(seen, "db1")
        seen["application"] = {"mongodb": {"primary": None}, "problems": ["MongoDB has no primary. See: x"]}
        assert [(f.host, f.check) for f in found(seen)] == [("db1", "reachable"), ("site", "primary")]
        assert "?" in screen(seen, found(seen))

    def test_two_of_three_members_away_are_a_set_without_a_primary(self) -> None:
        seen = healthy()
        cut_power(seen, "db1")
        cut_power(seen, "db2")
        members(seen, {"db3": "SECONDARY"})
        assert [(f.host, f.check) for f in found(seen) if f.check == "primary"] == [("site", "primary")]
        assert "1 of 3 members" in next(f.found for f in found(seen) if f.check == "primary")

    def test_a_stopped_database_is_one_problem_and_not_three(self) -> None:
        seen = healthy()
        stop(seen, "db2", "mongod")
        seen["hosts"]["db2"]["mongodb"] = {"error": "connection refused"}
        members(seen, {"db2": "UNREACHABLE"})
        assert [(f.host, f.check) for f in found(seen)] == [("db2", "unit")]

    def test_two_masters_and_two_holders_are_problems(self) -> None:
        seen = healthy()
        state(seen, "db2")["redis"].update(role="master")
        state(seen, "box2")["addresses"].append(seen["virtual_address"])
        assert [(f.check, f.host) for f in found(seen)] == [("floating address", "site"), ("redis", "site")]

    def test_an_edge_to_a_host_that_is_away_is_no_second_problem(self) -> None:
        seen = healthy()
        cut_power(seen, "db1")
        members(seen, {"db2": "PRIMARY"})
        state(seen, "db2")["redis"].update(role="master")
        state(seen, "db3")["redis"].update(master="db2")
        seen["hosts"]["box1"]["edges"].append(edge(drawn=True, is_open=False))
        assert [f.check for f in found(seen)] == ["reachable"]

    def test_a_dead_copy_is_told_by_its_own_host_alone(self) -> None:
        seen = healthy()
        state(seen, "db2")["files"].update(served=False)
        for other in ("db1", "db3"):
            state(seen, other)["files"]["waiting"].update(db2=None)
        (finding,) = found(seen)
        assert (finding.host, finding.check) == ("db2", "copies")
        assert "journalctl -u loyalty-brick" in finding.remedy
        assert "MUTE" in screen(seen, [finding])
        assert "copies on db1, db3" in screen(seen, [finding])

    def test_file_servers_that_run_and_do_not_see_each_other(self) -> None:
        seen = healthy()
        state(seen, "db1")["files"].update(peers={"db2": False, "db3": True}, waiting={})
        state(seen, "db3")["files"]["waiting"].update(db2=None)
        assert [(f.host, f.check, f.found) for f in found(seen)] == [
            ("db1", "copies", "its file server does not see the one of db2"),
            ("db3", "copies", "it does not reach the copy of the files on db2"),
        ]

    def test_nobody_knows_what_waits_when_no_answer_comes(self) -> None:
        seen = healthy()
        state(seen, "db1")["files"]["waiting"].clear()
        assert [(f.host, f.check) for f in found(seen)] == [("db1", "copies")]

    def test_a_file_server_that_is_away_or_stopped_is_one_problem(self) -> None:
        seen = healthy()
        cut_power(seen, "db2")
        # That a peer has lost its power is noticed by the others after a while.
        state(seen, "db3")["files"].update(peers={"db1": True, "db2": True})
        assert [(f.host, f.check) for f in found(seen)] == [("db2", "reachable")]
        seen = healthy()
        state(seen, "db1")["files"].update(peers={"db2": False, "db3": True}, waiting={})
        stop(seen, "db2", "glusterd")
        state(seen, "db2")["files"].update(served=False, peers={}, waiting={})
        assert [(f.host, f.check) for f in found(seen)] == [("db2", "unit")]

    def test_a_node_whose_units_are_stopped_is_no_second_problem(self) -> None:
        seen = healthy()
        for balancer in ("box1", "box2"):
            state(seen, balancer)["nodes"].update(box2="DOWN Layer4 connection problem")
        away = copy.deepcopy(seen)
        cut_power(away, "box2")
        assert [f.check for f in found(away)] == ["reachable"]
        stop(seen, "box2", "nginx")
        assert [f.check for f in found(seen)] == ["unit"]

    def test_a_node_that_no_balancer_takes_for_ready_is_one_problem(self) -> None:
        seen = healthy()
        for balancer in ("box1", "box2"):
            state(seen, balancer)["nodes"].update(box2="DOWN Layer7 wrong status 503")
        (finding,) = found(seen)
        assert finding.found == "box1 and box2 send it no requests: Layer7 wrong status 503"

    def test_the_clock_of_a_container_is_its_hosts(self) -> None:
        seen = healthy()
        state(seen, "db1")["time"].update(own=False, synchronised=False)
        assert found(seen) == []

    def test_problems_come_before_notices(self) -> None:
        seen = healthy()
        seen["drills"]["failover"] = None
        stop(seen, "db1", "chrony")
        assert [finding.level for finding in found(seen)] == ["problem", "notice"]


class TestOneHost:
    """What an upgrade asks of a host before it is touched, and before the next one is."""

    lacking = staticmethod(load("roles/verify/filter_plugins/lacking.py").lacking)

    def found(self, seen: dict[str, Any], name: str) -> list[str]:
        host = seen["hosts"][name]
        looked = {"state": host["state"]} if host["state"] else {"msg": host["unreachable"]}
        limits = {"disk_free_percent": 15, "oplog_hours": 1}
        asked = {"mongodb": host["mongodb"]} if host["mongodb"] else {"skipped": True}
        found: list[str] = self.lacking(looked, asked, name, seen["hosts"], "shop", limits)
        return [sentence.partition(". ")[0] for sentence in found]

    @pytest.mark.parametrize("shape", topologies())
    def test_a_host_of_a_healthy_site_lacks_nothing(self, shape: str) -> None:
        seen = healthy(shape)
        assert {name: self.found(seen, name) for name in seen["hosts"]} == {name: [] for name in seen["hosts"]}

    @pytest.mark.parametrize("member", ["RECOVERING", "UNREACHABLE"])
    def test_it_knows_of_every_member_of_the_replica_set(self, member: str) -> None:
        seen = healthy()
        members(seen, {"db3": member})
        for name in ("db1", "db2", "db3"):
            assert self.found(seen, name) == [f"db3 · member: its member of the replica set is {member}"]

    def test_it_knows_of_every_copy(self) -> None:
        seen = healthy()
        lagging(seen)
        state(seen, "db1")["files"]["waiting"].update(db2=None, db3=7)
        assert self.found(seen, "db1") == [
            "db2 · lag: its copy of the database is 42 s behind",
            "db1 · copies: it does not reach the copy of the files on db2",
            "site · heal: 7 entries of the file store are not on every copy yet",
        ]

    def test_it_knows_of_its_own_parts(self) -> None:
        seen = healthy()
        state(seen, "db2")["redis"].update(link="down")
        state(seen, "db2").update(sentinel="NOQUORUM")
        state(seen, "db2")["disks"].update({"/": disk(14)})
        seen["hosts"]["db2"]["mongodb"].update(oplog_hours=0.5)
        assert self.found(seen, "db2") == [
            "db2 · disk: / has 14 % left",
            "db2 · redis: its Redis does not follow db1: the link is down",
            "db2 · sentinel: its Sentinel could not have another master chosen: NOQUORUM",
            "db2 · oplog window: its operation log reaches back 0.5 h",
        ]

    def test_a_member_that_could_not_be_asked_is_not_taken_for_whole(self) -> None:
        hosts = healthy()["hosts"]
        (said,) = self.lacking(
            {"state": hosts["db1"]["state"]}, {"msg": "PyMongo is missing."}, "db1", hosts, "shop", {}
        )
        assert said.startswith("db1 · database: mongod does not answer: PyMongo is missing.")

    def test_what_can_wait_does_not_count(self) -> None:
        seen = healthy()
        state(seen, "db1")["certificates"]["mongod"].update(days_left=3)
        state(seen, "backup1")["backup"]["alarms"].append("log: gap. Type: x")
        assert self.found(seen, "db1") == self.found(seen, "backup1") == []

    def test_a_host_that_cannot_be_looked_at_is_not_whole(self) -> None:
        seen = healthy()
        cut_power(seen, "db2")
        assert self.found(seen, "db2") == ["db2 · reachable: it cannot be looked at: No route to host"]


class TestScreen:
    @pytest.mark.parametrize("shape", topologies())
    def test_fits_its_width_and_shows_every_host(self, shape: str) -> None:
        seen = healthy(shape)
        lines = screen(seen, found(seen)).splitlines()
        assert max(map(len, lines)) <= WIDTH
        assert all(any(line.startswith(name) for line in lines) for name in seen["hosts"])
        assert "All is well." in lines

    def test_has_columns_for_services_of_the_site_only(self) -> None:
        header = screen(healthy("two-server"), []).splitlines()[2].split()
        assert header == ["host", "nginx", "app", "jobs", "database", "redis", "files", "backup", "disk"]

    def test_says_who_leads(self) -> None:
        said = screen(healthy(), [])
        assert "primary db1 · db2 0 s behind · db3 0 s behind · log reaches back 31.5 h" in said
        assert "master db1 · db2, db3 follow" in said
        assert "copies on db1, db2, db3 · none waits for another" in said
        assert "192.0.2.10 held by box1" in said
        assert "run by box1" in said
        assert f"{RELEASE} on box1, box2" in said
        assert "failover 8 days ago: passed, planned gap 0.9 s, unplanned 2.9 s, 0 of 12,000" in said

    def test_says_how_much_is_not_on_every_copy(self) -> None:
        seen = healthy()
        state(seen, "db1")["files"]["waiting"].update(db1=12, db3=3)
        assert "copies on db1, db2, db3 · 12 entries wait to be copied" in screen(seen, [])
        state(seen, "db1")["files"]["waiting"].clear()
        cut_power(seen, "db2")
        cut_power(seen, "db3")
        assert "copies on db1\n" in screen(seen, [])

    def test_says_what_is_backed_up_now_and_how_the_last_runs_went(self) -> None:
        seen = healthy()
        backup = state(seen, "backup1")["backup"]
        backup["running"] = [
            {"kind": "full", "began": "2026-11-28T11:48:00Z", "step": "", "done": 1200, "whole": 2700},
            {"kind": "drill", "began": "2026-11-28T11:58:00Z", "step": "verify", "done": 0, "whole": 0},
        ]
        backup["recent"].append(
            {"kind": "files", "began": "2026-11-28T11:20:00Z", "ended": "2026-11-28T11:20:09Z", "ok": False,
             "bytes": 0, "error": "no room"}
        )  # by hand: a line of the history  # fmt: skip
        said = " ".join(screen(seen, []).split())
        assert "full runs for 12 min, 44 % · drill runs for 2 min, at verify" in said
        assert "copy 6 h ago, 1.7 GB in 55 min · incremental 5 h ago, 271.0 MB in 14 min" in said
        assert "files 40 min ago FAILED" in said

    def test_shows_each_problem_with_its_remedy(self) -> None:
        seen = healthy()
        stop(seen, "box1", "nginx")
        cut_power(seen, "db3")
        said = screen(seen, found(seen))
        assert "2 problems:" in said
        assert "box1 · unit: nginx.service is inactive (dead)" in said
        assert "-> on box1: journalctl --unit nginx.service" in said
        assert "STOPPED" in said
        assert max(map(len, said.splitlines())) <= WIDTH
        assert "All is well." not in said


class TestSamples:
    def test_once_an_hour_for_thirty_days(self, tmp_path: Any) -> None:
        seen = healthy("one-box")
        assert len(samples.remember(tmp_path, seen, 1000.0)) == 2
        assert len(samples.remember(tmp_path, seen, 1060.0)) == 2
        assert len(samples.remember(tmp_path, seen, 4700.0)) == 4
        assert len(samples.remember(tmp_path, copy.deepcopy(seen), 31 * 86400.0)) == 2
