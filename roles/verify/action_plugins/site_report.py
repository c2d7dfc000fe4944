"""Judge what was seen of all hosts, write it down as JSON, and lay it out as one table of at most 80 columns."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

WIDTH = 80
SERVICES = ("app", "nginx", "scheduler", "mongodb", "redis", "storage")


def judge(seen: Mapping[str, Any], limits: Mapping[str, int]) -> list[dict[str, str]]:
    """Everything that is wrong, as rows of `host`, `check`, `found` and `remedy`.

    `seen` has `hosts` ({name: {"state", "outside"}}), `application` (`loyalty status --json`, or None) and `ledger`
    (`loyalty ledger verify --json`, or None where it was not asked for).
    """
    problems: list[dict[str, str]] = []

    def problem(host: str, check: str, found: str, remedy: str) -> None:
        problems.append({"host": host, "check": check, "found": found, "remedy": remedy})

    releases: set[str] = set()
    for host, looked in seen["hosts"].items():
        state = looked["state"]
        for service, unit in state["units"].items():
            if unit["state"] != "active":
                problem(
                    host,
                    service,
                    f"{unit['unit']} is {unit['state']} ({unit['sub_state']})",
                    f"journalctl --unit {unit['unit']} --lines 50, then run the playbook site.yml.",
                )
        for path, disk in state["disks"].items():
            if disk is None:
                problem(host, "disk", f"{path} is missing", "Run the playbook site.yml with --tags storage.")
            elif disk["free_percent"] < limits["disk_free_percent"]:
                problem(
                    host,
                    "disk",
                    f"{path} has {disk['free_percent']} % left",
                    f"Free space or enlarge the disk: {limits['disk_free_percent']} % is the least.",
                )
        certificate = state["certificate"]
        if "nginx" in state["services"] and certificate is None:
            problem(host, "certificate", "there is none", "Run the playbook site.yml with --tags tls.")
        elif certificate and certificate["days_left"] < limits["certificate_days"]:
            problem(
                host,
                "certificate",
                f"it ends in {certificate['days_left']} days",
                "Run the playbook site.yml with --tags tls.",
            )
        if state["release"]:
            releases.add(state["release"]["release"])
        elif "app" in state["services"]:
            problem(host, "release", "no release is active", "Run the playbook deploy.yml.")
        for row in looked["outside"]:
            if not row["ok"]:
                problem(host, row["check"], row["found"], row["remedy"])
    if len(releases) > 1:
        problem("site", "release", f"hosts run {' and '.join(sorted(releases))}", "Run the playbook deploy.yml.")
    application = seen["application"]
    if application is None:
        problem("site", "status", "`loyalty status` gave no answer", "Run: loyalty status, on the host of the jobs.")
    else:
        for sentence in application["problems"]:
            problem("site", "status", sentence, "Run: loyalty status, on the host of the jobs.")
    ledger = seen["ledger"]
    if ledger is not None and not ledger["ok"]:
        for defect in ledger["defects"][:5]:
            problem(
                "site",
                "ledger",
                f"{defect['where']}: {defect['what']}",
                "Stop, keep everything as it is, and restore from a backup beside it to compare.",
            )
    return problems


def report(seen: Mapping[str, Any], problems: list[dict[str, str]], *, site: str, url: str) -> str:
    """The table hosts x services, the numbers, and the problems with their remedies."""
    hosts = seen["hosts"]
    first = max(4, *(len(name) for name in hosts)) + 2
    cell = (WIDTH - first) // len(SERVICES)
    lines = [
        f"Site {site} · {url}",
        "",
        f"{'host':<{first}}" + "".join(f"{service:<{cell}}" for service in SERVICES),
        *(
            f"{name:<{first}}" + "".join(f"{_cell(service, looked['state']):<{cell}}" for service in SERVICES)
            for name, looked in hosts.items()
        ),
        "",
        *_numbers(seen),
    ]
    if problems:
        lines += ["", f"{len(problems)} problem(s):"]
        for found in problems:
            lines += textwrap.wrap(
                f"{found['host']} {found['check']}: {found['found']}", WIDTH, subsequent_indent="    "
            )
            lines += textwrap.wrap(f"-> {found['remedy']}", WIDTH, initial_indent="    ", subsequent_indent="       ")
    else:
        lines += ["", "All is well."]
    return "\n".join(line.rstrip() for line in lines)


def _cell(service: str, state: Mapping[str, Any]) -> str:
    """`ok` and the one thing worth knowing, `-` where the host does not have the service."""
    if service not in state["services"]:
        return "-"
    if service == "storage":
        disk = list(state["disks"].values())[-1]
        return f"ok {disk['free_percent']}% left" if disk else "MISSING"
    unit = state["units"][service]
    if unit["state"] != "active":
        return unit["state"].upper()
    if service == "app":
        return f"ok {state['release']['colour']}" if state["release"] else "ok"
    return f"ok {state['versions'].get(service) or ''}".rstrip()


def _numbers(seen: Mapping[str, Any]) -> list[str]:
    application, ledger = seen["application"], seen["ledger"]
    lines = []
    if application:
        lines.append(f"Release      {application['release']}")
        lines.append(f"Replica set  primary {application['mongodb'].get('primary') or 'MISSING'}")
        late = [job["name"] for job in application.get("jobs", ()) if job["state"] != "ok"]
        jobs = len(application.get("jobs", ()))
        lines.append(f"Jobs         {jobs - len(late)} of {jobs} fine{', not: ' + ' '.join(late) if late else ''}")
    days = [
        looked["state"]["certificate"]["days_left"]
        for looked in seen["hosts"].values()
        if looked["state"]["certificate"]
    ]
    if days:
        lines.append(f"Certificate  {min(days)} days left")
    if ledger:
        lines.append(f"Ledger       {_counted(ledger['chains'], ledger['entries'], ledger['available'])}")
        lines.append(f"             {'every entry, chain, seal and wallet is right' if ledger['ok'] else 'NOT WHOLE'}")
    elif application and "members" in application:
        points = application["points_available"]
        lines.append(f"Ledger       {_counted(application['members'], application['entries'], points)}")
    return lines


def _counted(members: int, entries: int, available: Mapping[str, int]) -> str:
    points = [f"{points:,} {wallet} available" for wallet, points in sorted(available.items())]
    return " · ".join([f"{members:,} members", f"{entries:,} entries", *points])


class ActionModule(ActionBase):  # type: ignore[misc]
    """`site_report: {hosts, application, ledger, limits, site, url, path}` returns `report` and `problems`.

    `application` and `ledger` are what the commands printed.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"hosts", "application", "ledger", "limits", "site", "url", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        seen = {
            "hosts": args["hosts"],
            "application": _parsed(args.get("application")),
            "ledger": _parsed(args.get("ledger")),
        }
        problems = judge(seen, {name: int(value) for name, value in args["limits"].items()})
        text = report(seen, problems, site=str(args["site"]), url=str(args["url"]))
        found = {
            "site": args["site"],
            "url": args["url"],
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "ok": not problems,
            "problems": problems,
            **seen,
        }
        _write(Path(str(args["path"])), json.dumps(found, indent=2, sort_keys=True) + "\n")
        return result | {"changed": False, "report": text, "problems": problems}


def _parsed(printed: Any) -> Any:
    """The JSON that a command printed; None when it printed none."""
    if isinstance(printed, Mapping):  # ansible-core before 2.19 parses what looks like JSON by itself
        return printed
    try:
        return json.loads(str(printed))
    except ValueError:
        return None


def _write(path: Path, text: str) -> None:
    """All or nothing: a reader never finds half a file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o600)
    draft.replace(path)
