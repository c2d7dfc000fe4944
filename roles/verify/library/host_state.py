#!/usr/bin/python
"""Look at one host in one visit: units, disks, certificates, release, redundancy; in depth also what rots unseen."""

from __future__ import annotations

import calendar
import fcntl
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_state
short_description: Report units, disks, certificates, release, time and redundancy of this host
description: Only looks; never changes anything. What does not exist is reported as missing, never as an error.
options:
  services:
    description: Services that the topology puts on this host; C(sentinel) and C(gluster) where it has them.
    type: list
    elements: str
    required: true
  release_directory:
    description: Where the role app keeps the releases.
    type: path
    required: true
  disks:
    description: Folders whose file systems must have room.
    type: list
    elements: path
    required: true
  mounts:
    description: Folders that are only what they should be while something is mounted there.
    type: list
    elements: path
    default: []
  backup_path:
    description: The folder that keeps backups, where this host keeps them.
    type: path
    default: ""
  redis_password:
    description: Password of Redis' user C(loyalty).
    type: str
    default: ""
  sentinel_port:
    description: Port of the Sentinel, where this host has one.
    type: int
    default: 26379
  sentinel_password:
    description: Password of the Sentinels.
    type: str
    default: ""
  deep:
    description: >-
      Whether to look for what rots unseen, too - services older than their files, open secrets, waiting restarts.
    type: bool
    default: false
author: loyalty (@loyalty)
"""

EXAMPLES = r"""
- name: Look at the host
  host_state:
    services: "{{ topology_services }}"
    release_directory: /opt/loyalty
    disks: [/, /mnt/storage]
"""

RETURN = r"""
state:
  description: >-
    C(units), C(disks), C(unmounted), C(certificates), C(release), C(upstream), C(addresses), C(listening),
    C(versions), C(time), C(redis), C(sentinel), C(files), C(nodes), C(backup) and C(deep).
  type: dict
  returned: always
"""

UPSTREAM = Path("/etc/nginx/loyalty/upstream.conf")
CERTIFICATES = Path("/etc/loyalty/tls")
BACKUP_SETTINGS = Path("/etc/loyalty/backup.toml")
# There where the log of the database is archived all the time, and not by a timer.
BACKUP_LOG_WANTED = Path("/etc/systemd/system/multi-user.target.wants/loyalty-backup-log.service")
BRICKS = Path("/run/gluster/vols/loyalty")
SECRETS = ("/etc/loyalty", "/etc/mongodb", "/etc/redis", "/etc/keepalived")
UNITS = {
    "host": ("loyalty-firewall.service", "chrony.service"),
    "nginx": ("nginx.service",),
    "scheduler": ("loyalty-jobs.service",),
    "mongodb": ("mongod.service",),
    "redis": ("redis-server.service",),
    "sentinel": ("redis-sentinel.service",),
    "balancer": ("haproxy.service", "keepalived.service"),
    "gluster": ("glusterd.service", "loyalty-brick.timer"),
    "backup": tuple(
        f"loyalty-backup-{kind}.timer" for kind in ("full", "incremental", "files", "dump", "verify", "prune", "drill")
    ),
}
VERSIONS = {
    "mongodb": ("mongod.service", "--version", r"db version v([\d.]+)"),
    "redis": ("redis-server.service", "--version", r"v=([\d.]+)"),
    "nginx": ("nginx.service", "-v", r"nginx/([\d.]+)"),
    "balancer": ("haproxy.service", "-v", r"version ([\d.]+)"),
}
# What a unit reads at its start or reload, besides its own unit file.
READS = {
    "nginx.service": ("/etc/nginx", "/etc/loyalty/tls/site.crt"),
    "mongod.service": ("/etc/mongodb",),
    "redis-server.service": ("/etc/redis/loyalty.conf", "/etc/redis/loyalty.acl", "/etc/redis/replication.conf"),
    "redis-sentinel.service": ("/etc/redis/sentinel.conf",),
    "haproxy.service": ("/etc/haproxy",),
    "keepalived.service": ("/etc/keepalived",),
    "loyalty-jobs.service": ("/etc/loyalty/loyalty.env", "/etc/loyalty/credentials"),
    "loyalty@blue.service": ("/etc/loyalty/loyalty.env", "/etc/loyalty/credentials"),
    "loyalty@green.service": ("/etc/loyalty/loyalty.env", "/etc/loyalty/credentials"),
}
# How much of a history is read, from its end: weeks.
TAIL_BYTES = 4_000_000
# So many runs of backups are told one by one; of the log, which is archived all the time, those that failed.
RECENT = 5
# File systems settle their times in ticks, and a role writes files and starts the unit in one go.
TICK_SECONDS = 2.0


def said(*command: str, env: dict[str, str] | None = None) -> str:
    """What a command prints, both streams; empty when it cannot be run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=10, env={**os.environ, **(env or {})}
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def shown(unit: str, *properties: str) -> dict[str, str]:
    answer = said("systemctl", "show", unit, f"--property={','.join(properties)}")
    return dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)


def unit_state(service: str, unit: str) -> dict[str, Any]:
    """State, start instant and restarts of one unit."""
    found = shown(unit, "ActiveState", "SubState", "NRestarts", "ActiveEnterTimestamp")
    return {
        "service": service,
        "unit": unit,
        "state": found.get("ActiveState", "unknown"),
        "sub_state": found.get("SubState", "unknown"),
        "restarts": int(found.get("NRestarts") or 0),
        "since": found.get("ActiveEnterTimestamp", ""),
    }


def certificate_state(path: Path) -> dict[str, Any] | None:
    """When the certificate ends. None when it is none."""
    match = re.search(r"notAfter=(.+)", said("openssl", "x509", "-noout", "-enddate", "-in", str(path)))
    if match is None:
        return None
    ends = calendar.timegm(time.strptime(match.group(1).strip(), "%b %d %H:%M:%S %Y %Z"))
    return {
        "path": str(path),
        "not_after": utc(ends),
        "days_left": int((ends - time.time()) // 86400),
    }


def mounts() -> dict[str, set[str]]:
    """What is mounted where, with its options. Asks the kernel: a share that hangs would make a look at it hang."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return {fields[1]: set(fields[3].split(",")) for fields in map(str.split, lines)}


def disk_state(path: str, mounted: dict[str, set[str]]) -> dict[str, Any] | None:
    """Size and free space of the file system that holds `path`. None when it is missing, or does not answer."""
    words = said("df", "--block-size=1", "--output=size,avail,target", path).split()
    if len(words) < 3 or not words[-2].isdigit():
        return None
    total, free, target = int(words[-3]), int(words[-2]), words[-1]
    return {
        "total_bytes": total,
        "free_bytes": free,
        "free_percent": round(100 * free / total) if total else 0,
        "read_only": "ro" in mounted.get(target, ()),
    }


def release_state(directory: Path) -> dict[str, Any] | None:
    """The active colour and release, without the fingerprint of their settings."""
    try:
        active: dict[str, Any] = json.loads((directory / "active.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: active.get(name) for name in ("colour", "release", "previous")}


def upstream_colour() -> str | None:
    """The colour that NGINX passes requests to; None where there is no NGINX."""
    try:
        match = re.search(r"unix:/run/loyalty-(\w+)/", UPSTREAM.read_text(encoding="utf-8"))
    except OSError:
        return None
    return match.group(1) if match else None


def listening() -> list[str]:
    """Local addresses with a TCP listener."""
    return sorted({line.split()[3] for line in said("ss", "-H", "-ltn").splitlines() if len(line.split()) > 3})


def addresses() -> list[str]:
    """All addresses of this host, the floating one among them while it is here."""
    return re.findall(r"inet6? ([0-9a-f.:]+)", said("ip", "-oneline", "address"))


def version_of(service: str) -> str | None:
    """The version of the program that runs, wherever it was installed from."""
    unit, option, pattern = VERSIONS[service]
    match = re.search(pattern, said(f"/proc/{main_process(unit)}/exe", option))
    return match.group(1) if match else None


def main_process(unit: str) -> int:
    return int(shown(unit, "MainPID").get("MainPID") or 0)


def time_state() -> dict[str, Any]:
    """Whether the clock is this machine's own to set, follows a server, and how far off it is."""
    contained = said("systemd-detect-virt", "--container").strip() not in ("", "none")
    fields = said("chronyc", "-n", "-c", "tracking").strip().split(",")
    answered = len(fields) >= 14
    return {
        "own": not contained,
        "synchronised": answered and fields[13] != "Not synchronised",
        "offset_ms": round(float(fields[4]) * 1000, 3) if answered else None,
    }


def redis_state(password: str) -> dict[str, Any]:
    """What Redis says of itself as master or replica."""
    answer = said(
        "redis-cli", "-s", "/run/redis/redis.sock", "--user", "loyalty", "--no-auth-warning", "INFO", "replication",
        env={"REDISCLI_AUTH": password},
    )  # fmt: skip
    found = dict(line.strip().split(":", 1) for line in answer.splitlines() if ":" in line)
    if "role" not in found:
        return {"error": answer.strip().splitlines()[-1] if answer.strip() else "no answer"}
    return {
        "role": found["role"],
        "master": found.get("master_host"),
        "link": found.get("master_link_status"),
        "replicas": int(found.get("connected_slaves") or 0),
        "offset": int(found.get("master_repl_offset") or 0),
    }


def sentinel_state(port: int, password: str) -> str:
    """Whether another master could be chosen now, in the words of the Sentinel: `OK ...`, or what it lacks."""
    return said(
        "redis-cli", "--tls", "--cacert", str(CERTIFICATES / "ca.crt"), "-p", str(port),
        "sentinel", "ckquorum", "loyalty",
        env={"REDISCLI_AUTH": password},
    ).strip()  # fmt: skip


def files_state() -> dict[str, Any]:
    """Whether this host's copy of the files is served, which other file servers are there, what copies wait for.

    `waiting` has, for each copy, how many entries are not yet on all the others; None where the copy was not reached.
    It is empty while a file server is away: asking would take longer than the answer is worth.
    """
    pool = re.findall(r"(?m)^[0-9a-f-]{36}\s+(\S+)\s+(\w+)", said("gluster", "pool", "list"))
    peers = {name: state == "Connected" for name, state in pool if name != "localhost"}
    waiting: dict[str, int | None] = {}
    # No `volume status`: it locks the volume, and of several hosts that ask at once all but one would be refused.
    for line in said("gluster", "volume", "heal", "loyalty", "info").splitlines() if all(peers.values()) else ():
        if brick := re.match(r"Brick (\S+?):/", line):
            host = brick.group(1)
            waiting[host] = None
        elif entries := re.match(r"Number of entries: (\d+)$", line):
            waiting[host] = int(entries.group(1))
    return {"served": any(runs(file) for file in BRICKS.glob("*.pid")), "peers": peers, "waiting": waiting}


def runs(pid_file: Path) -> bool:
    """Whether the process lives whose number is in the file."""
    number = pid_file.read_text(encoding="ascii").strip()
    return number.isdigit() and Path(f"/proc/{number}").exists()


def balanced_nodes() -> dict[str, str]:
    """What the balancer of this host holds of each node: `UP`, or `DOWN` and why."""
    lines = said("/usr/local/sbin/balancer-nodes").splitlines()
    return dict(line.split(" ", 1) for line in lines if re.match(r"\S+ (UP|DOWN)", line))


def backup_units() -> tuple[str, ...]:
    """What takes backups: timers, for the log a timer or a service that goes on all the time, and the second copy's."""
    log = "loyalty-backup-log.service" if BACKUP_LOG_WANTED.exists() else "loyalty-backup-log.timer"
    return (*UNITS["backup"], log, *(["loyalty-backup-copy.timer"] if has_second_copy() else []))


def has_second_copy() -> bool:
    """Whether the settings of the backups name a place for a second copy."""
    try:
        return "[second_copy]" in BACKUP_SETTINGS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False


def backup_state(target: Path) -> dict[str, Any]:
    """What the folder that keeps the backups says of itself; docs/operator/backups.md names its files."""
    try:
        marker = json.loads((target / "loyalty-backup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    last: dict[str, Any] = {}
    good: dict[str, str] = {}
    history = tail(target / "history.jsonl")
    for run in history:
        last[run["kind"]] = {name: run.get(name) for name in ("ended", "ok", "error")}
        if run["ok"]:
            good[run["kind"]] = run["ended"]
    alarm = target / "ALARM"
    slices = [file.stem.partition("-")[2] for file in (target / "log").glob("*.json")]
    drills = tail(target / "restore_drills.jsonl")
    return {
        "created_at": marker["created_at"],
        "alarms": alarm.read_text(encoding="utf-8").splitlines() if alarm.exists() else [],
        "last": last,
        "good": good,
        "running": under_way(target),
        "recent": [run for run in history if run["kind"] != "log" or not run["ok"]][-RECENT:],
        "log_continuous": BACKUP_LOG_WANTED.exists(),
        "second_copy": has_second_copy(),
        # The last moment that can be restored to; the seconds of a cluster time are its first eight digits.
        "log_reaches": utc(int(max(slices)[:8], 16)) if slices else None,
        "drill": drills[-1] if drills else None,
    }


def under_way(target: Path) -> list[dict[str, Any]]:
    """The runs that go on, each of which holds a file of its own (loyalty/backup/running.py)."""
    found = []
    for path in sorted(target.glob(".running.*")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with suppress(ValueError):
                    found.append(json.loads(file.read()))
    return found


def tail(file: Path) -> list[dict[str, Any]]:
    """The last lines of a history, oldest first; what a power cut has torn is left out."""
    if not file.exists():
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        found = []
        for line in stream:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def stale(units: list[str]) -> Iterator[dict[str, str]]:
    """Units that run an older program, or older settings, than lie on the disk."""
    for unit in units:
        found = shown(unit, "MainPID", "NeedDaemonReload", "ActiveState", "ControlGroup")
        pid = int(found.get("MainPID") or 0)
        if found.get("ActiveState") != "active" or not pid:
            continue
        if found.get("NeedDaemonReload") == "yes":
            yield row(unit, "its unit file", f"systemctl daemon-reload && systemctl restart {unit}")
        if replaced := replaced_program(pid):
            yield row(unit, replaced, f"systemctl restart {unit}")
        started = youngest(found.get("ControlGroup", ""), pid) + TICK_SECONDS
        for path in newest_first(READS.get(unit, ())):
            if path.stat().st_mtime > started:
                yield row(unit, str(path), f"systemctl reload-or-restart {unit}")
                break


def row(unit: str, what: str, remedy: str) -> dict[str, str]:
    return {"unit": unit, "what": what, "remedy": remedy}


def replaced_program(pid: int) -> str:
    """The program or library that a process still runs although an upgrade has replaced it; empty if none."""
    try:
        mapped = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"r-xp .* (/(?:usr|opt|lib)/\S+) \(deleted\)", mapped)
    return match.group(1) if match else ""


def youngest(cgroup: str, pid: int) -> float:
    """When the last process of a unit was started: workers that read settings anew at a reload count."""
    pids = [pid]
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
        members = Path(f"{mount}{cgroup}/cgroup.procs")
        if members.exists():
            pids += [int(number) for number in members.read_text(encoding="ascii").split()]
    return max((started for number in pids if (started := process_start(number))), default=0.0)


def process_start(pid: int) -> float:
    """Seconds since 1970 at the start of a process; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def newest_first(places: tuple[str, ...]) -> list[Path]:
    files = [
        file
        for place in places
        for file in (sorted(Path(place).rglob("*")) if Path(place).is_dir() else [Path(place)])
        if file.is_file()
    ]
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def open_secrets() -> Iterator[dict[str, str]]:
    """Keys, passwords and credentials that more than their owner and group may read, or others may change."""
    for folder in map(Path, SECRETS):
        for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
            secret = (
                file.parent.name == "credentials" or file.suffix in (".key", ".pem", ".acl") or file.name == "keyfile"
            )
            if not secret or not file.is_file():
                continue
            found = file.stat()
            mode = stat.S_IMODE(found.st_mode)
            if mode & 0o037:
                yield {"path": str(file), "mode": f"{mode:04o}", "owner": owner(found.st_uid)}


def owner(number: int) -> str:
    try:
        return getpwuid(number).pw_name
    except KeyError:
        return str(number)


def waiting_restart() -> list[str]:
    """The packages whose upgrade needs a restart of the server."""
    if not Path("/run/reboot-required").exists():
        return []
    packages = Path("/run/reboot-required.pkgs")
    return sorted(set(packages.read_text(encoding="utf-8").split())) if packages.exists() else ["a package"]


def failed_units() -> list[str]:
    answer = said("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    return [line.split()[0] for line in answer.splitlines() if line.strip()]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "release_directory": {"type": "path", "required": True},
            "disks": {"type": "list", "elements": "path", "required": True},
            "mounts": {"type": "list", "elements": "path", "default": []},
            "backup_path": {"type": "path", "default": ""},
            "redis_password": {"type": "str", "default": "", "no_log": True},
            "sentinel_port": {"type": "int", "default": 26379},
            "sentinel_password": {"type": "str", "default": "", "no_log": True},
            "deep": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    services = params["services"]
    sentinel = (params["sentinel_port"], params["sentinel_password"])
    mounted = mounts()
    release = release_state(Path(params["release_directory"]))
    wanted = UNITS | ({"backup": backup_units()} if "backup" in services else {})
    units = [unit_state(service, unit) for service in ("host", *services) for unit in wanted.get(service, ())]
    if "app" in services:
        units.append(unit_state("app", f"loyalty@{release['colour'] if release else 'blue'}.service"))
    certificates = {file.stem: certificate_state(file) for file in sorted(CERTIFICATES.glob("*.crt"))}
    state = {
        "services": services,
        "units": units,
        "release": release,
        "upstream": upstream_colour(),
        "disks": {path: disk_state(path, mounted) for path in params["disks"]},
        "unmounted": [path for path in params["mounts"] if path not in mounted],
        "certificates": {name: found for name, found in certificates.items() if found},
        "addresses": addresses(),
        "listening": listening(),
        "versions": {service: version_of(service) for service in services if service in VERSIONS},
        "time": time_state(),
        "redis": redis_state(params["redis_password"]) if "redis" in services else None,
        "sentinel": sentinel_state(*sentinel) if "sentinel" in services else None,
        "files": files_state() if "gluster" in services else None,
        "nodes": balanced_nodes() if "balancer" in services else None,
        "backup": backup_state(Path(params["backup_path"])) if "backup" in services else None,
        "deep": {
            "stale": list(stale([unit["unit"] for unit in units])),
            "open_secrets": list(open_secrets()),
            "failed_units": failed_units(),
            "reboot": waiting_restart(),
        }
        if params["deep"]
        else None,
    }
    module.exit_json(changed=False, state=state)


if __name__ == "__main__":
    main()
