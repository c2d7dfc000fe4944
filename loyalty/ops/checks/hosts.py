"""What must be so of each host."""

from __future__ import annotations

from collections.abc import Iterator

from loyalty.ops.checks.catalogue import Complaint, Limits, Seen, check
from loyalty.ops.checks.seen import hosts_of, releases, states


@check("reachable", "Every host of the inventory can be reached and looked at")
def reachable(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, host in seen["hosts"].items():
        if host["unreachable"]:
            yield (
                name,
                f"it cannot be looked at: {host['unreachable']}",
                f"Is it on, and on the network? Try: ping {host['address'] or name}; then its console or power button. "
                "What it holds is shown by the other rows as far as other hosts know of it.",
            )


@check("unit", "Every service that the topology gives a host runs there")
def unit(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for found in state["units"]:
            if found["state"] not in ("active", "reloading"):
                yield (
                    name,
                    f"{found['unit']} is {found['state']} ({found['sub_state']})",
                    f"on {name}: journalctl --unit {found['unit']} --lines 50; mend the cause, then: "
                    f"systemctl start {found['unit']}",
                )


@check("disk", "Every file system has room, and the file store is there")
def disk(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for path, found in state["disks"].items():
            if found is None:
                yield (
                    name,
                    f"{path} is missing, or does not answer",
                    f"./appliance apply --site {seen['site']} makes or mounts it.",
                )
            elif found["free_percent"] < limits.disk_free_percent:
                yield (
                    name,
                    f"{path} has {found['free_percent']} % left",
                    f"Free space or enlarge the disk: {limits.disk_free_percent} % is the least. What is large, on "
                    f"{name}: du -xh --max-depth=2 {path} | sort -h | tail",
                )
            elif found["read_only"]:
                yield (
                    name,
                    f"{path} is mounted read-only",
                    f"The kernel does that when a disk fails. on {name}: dmesg | grep -i error; then check the disk.",
                )


@check("mount", "What is kept on another disk, a share or the file servers is mounted")
def mount(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for path in state["unmounted"]:
            yield (
                name,
                f"nothing is mounted at {path}",
                f"on {name}: mount {path}. If it refuses: is the disk there (lsblk), does its server answer? "
                "journalctl -b -n 50 -p warning",
            )


@check("certificate", "Every certificate is there and valid for a while")
def certificate(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for service, which in (("nginx", "site"), ("mongodb", "mongod")):
            if service in state["services"] and which not in state["certificates"]:
                yield name, f"there is no certificate {which}", f"./appliance apply --site {seen['site']} issues it."
        for which, found in state["certificates"].items():
            if found["days_left"] < limits.certificate_days:
                yield (
                    name,
                    f"certificate {which} ends in {found['days_left']} days",
                    f"./appliance apply --site {seen['site']} renews it, where the site's own authority issued it; "
                    "your own goes into the site's folder under tls/ before that.",
                )


@check("release", "Every application host runs a release, and the same one")
def release(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        if "app" in state["services"] and not state["release"]:
            yield name, "no release is active", f"./appliance deploy --site {seen['site']}"
    found = releases(seen)
    if len(found) > 1:
        said = "; ".join(f"{which} on {' and '.join(hosts)}" for which, hosts in found.items())
        yield (
            "site",
            f"different releases answer: {said}",
            f"./appliance deploy --site {seen['site']} brings all hosts to one release.",
        )


@check("colour", "NGINX passes requests to the colour that is active")
def colour(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        active, passed = (state["release"] or {}).get("colour"), state["upstream"]
        if active and passed and active != passed:
            yield (
                name,
                f"NGINX passes requests to {passed}, and {active} is active: a deploy was cut off",
                f"./appliance deploy --site {seen['site']} finishes it.",
            )


@check("clock", "Every host's clock follows a time server")
def clock(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        time = state["time"]
        # A container's clock is its host's: there is nothing to set.
        if not time["own"]:
            continue
        if not time["synchronised"]:
            yield (
                name,
                "its clock follows no time server",
                f"on {name}: chronyc sources. None answers? Open UDP 123 to them, or set base_time_servers to yours.",
            )
        elif abs(time["offset_ms"]) > limits.clock_offset_ms:
            yield (
                name,
                f"its clock is {time['offset_ms']:+.0f} ms off",
                f"on {name}: chronyc makestep, then chronyc tracking",
            )


@check("stale", "Every service runs the program and the settings that are on its disk", deep=True)
def stale(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for found in (state["deep"] or {}).get("stale", ()):
            yield (
                name,
                f"{found['unit']} started before {found['what']} changed",
                f"./appliance apply --site {seen['site']}; if it still says so, on {name}: {found['remedy']}",
            )


@check("secrets", "Only their owners can read secrets", deep=True)
def secrets(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for found in (state["deep"] or {}).get("open_secrets", ()):
            yield (
                name,
                f"{found['path']} has mode {found['mode']} and belongs to {found['owner']}",
                f"./appliance apply --site {seen['site']} puts it right. Who could read it? If in doubt, change the "
                "secret.",
            )


@check("failed units", "No unit of the system has failed", deep=True)
def failed_units(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        known = {found["unit"] for found in state["units"]}
        for found in (state["deep"] or {}).get("failed_units", ()):
            if found not in known:
                yield (
                    name,
                    f"{found} has failed",
                    f"on {name}: journalctl --unit {found} --lines 50; when it is mended: systemctl reset-failed",
                )


@check("preflight", "Each server is still one that could be installed today", deep=True)
def preflight(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, host in seen["hosts"].items():
        for found in host["preflight"] or ():
            yield name, f"{found['check']}: {found['found']}", found["remedy"]


@check("restarts", "No service keeps restarting", level="notice", deep=True)
def restarts(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        for found in state["units"]:
            if found["restarts"] >= 3:
                yield (
                    name,
                    f"{found['unit']} was restarted {found['restarts']} times since the server started",
                    f"on {name}: journalctl --unit {found['unit']} --priority warning",
                )


@check("reboot", "No upgrade waits for a restart of the server", level="notice", deep=True)
def reboot(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for name, state in states(seen):
        waiting = (state["deep"] or {}).get("reboot")
        if waiting:
            alone = len(hosts_of(seen, "mongodb")) == 1
            yield (
                name,
                f"it waits for a restart since an upgrade of {', '.join(waiting)}",
                f"on {name}: systemctl reboot, at a time when "
                + ("the site may be away for a minute." if alone else "all else is well; one host after another."),
            )


@check("disk forecast", "No disk fills up soon", level="notice", deep=True)
def disk_forecast(seen: Seen, limits: Limits) -> Iterator[Complaint]:
    for (host, path), days in days_until_full(seen).items():
        if days < limits.disk_forecast_days:
            yield (
                host,
                f"{path} is full in {days:.0f} days if it goes on as it did",
                f"Enlarge it, or see what grows, on {host}: du -xh --max-depth=2 {path} | sort -h | tail",
            )


def days_until_full(seen: Seen) -> dict[tuple[str, str], float]:
    """Days until each disk that grows is full: a straight line (least squares) through at least a day."""
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for sample in seen["disks"]:
        days = sample["at"] / 86400
        series.setdefault((sample["host"], sample["path"]), []).append((days, float(sample["free_bytes"])))
    found = {}
    for where, points in series.items():
        first, last = points[0][0], points[-1][0]
        if len(points) < 3 or last - first < 1:
            continue
        middle = sum(x for x, _ in points) / len(points)
        level = sum(y for _, y in points) / len(points)
        slope = sum((x - middle) * (y - level) for x, y in points) / sum((x - middle) ** 2 for x, _ in points)
        if slope < 0:
            found[where] = max(0.0, points[-1][1] / -slope)
    return found
