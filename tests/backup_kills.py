"""`python -m tests.backup_kills --times 1000`: kill the backup program at random points, and look at what it leaves.

Each round writes something, starts a full, an incremental or the log, kills the program after a random part of the time
that such a run takes, and then looks: what every manifest names is there and as it says, and the member is not left
locked. Now and then a run is let through, which must succeed; in the end all that has a manifest is read entirely.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from loyalty.backup.manifest import read_catalogue
from loyalty.backup.repository import Repository
from loyalty.backup.sealed import read_sealed, sha256_of
from loyalty.backup.settings import read_secret
from tests.integration.backup.conftest import SOURCE, Site
from tests.servers import REPOSITORY, Mongod, wait_until

COMMANDS = ("full", "incremental", "log")
CHAINS_KEPT = 2


@dataclass
class Tally:
    """What happened in all rounds."""

    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COMMANDS, 0))
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COMMANDS, 0))
    archives: int = 0


def torture(site: Site, member: Mongod, *, times: int, chance: random.Random) -> Tally:
    """Kill the program so many times; AssertionError when it leaves something that is not as its manifest says."""
    tally = Tally()
    seen: set[str] = set()
    usual_s = {command: _time(site, command) for command in COMMANDS}
    with member.connect() as client:
        for number in range(times):
            client.shop.items.insert_one({"n": number, "noise": os.urandom(5000)})
            command = chance.choice(COMMANDS)
            was_killed = _run_and_kill(site, command, chance.uniform(0.2, 1.1) * usual_s[command])
            (tally.killed if was_killed else tally.finished)[command] += 1
            wait_until(
                lambda: not client.admin.command("currentOp").get("fsyncLock") and not _is_asked(member),
                timeout_s=20,
                failure=lambda: "the member is left locked, or goes on copying",
            )
            seen |= _look(site, seen)
            if number % 20 == 19:
                done = site.run(command)
                assert done.returncode == 0, f"round {number}: the next {command} fails: {done.stderr}"
                _forget_old_chains(site)
    tally.archives = len(seen)
    _read_everything(site)
    return tally


def _is_asked(member: Mongod) -> bool:
    """Whether the member's side of a run is still there: it ends by itself once nobody listens."""
    program = f"{SOURCE.name} {member.directory}"
    return subprocess.run(["pgrep", "--full", program], stdout=subprocess.DEVNULL, check=False).returncode == 0


def _time(site: Site, command: str) -> float:
    """How long such a run takes here and now, in seconds."""
    began = time.monotonic()
    done = site.run(command)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def _run_and_kill(site: Site, command: str, after_s: float) -> bool:
    """Whether it had to be killed: otherwise it ended before."""
    program = [sys.executable, "-m", "loyalty.backup", "--settings", str(site.path), command]
    with tempfile.TemporaryFile() as said:
        run = subprocess.Popen(program, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        try:
            run.wait(after_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.pid, signal.SIGKILL)
            run.wait()
            return True
        said.seek(0)
        assert run.returncode == 0, f"{command} ended with {run.returncode}: {said.read().decode()[-1000:]}"
        return False


def _look(site: Site, seen: set[str]) -> set[str]:
    """Every archive with a manifest is there. Which they are; those that were looked at before are not read again."""
    catalogue = read_catalogue(site.target)
    assert not catalogue.damaged, catalogue.damaged
    for piece in catalogue.slices:
        if piece.id not in seen:
            assert sha256_of(site.target.slice(piece)) == piece.sha256, piece.id
            assert len(site.entries(piece)) == piece.entries, piece.id
    for chain in catalogue.chains:
        new = [archive for archive in chain.archives if archive.id not in seen]
        if new:
            held = _repository(site, chain.id).archives()
            for archive in new:
                assert held.get(archive.id) == archive.sha256, archive.id
    return {archive.id for archive in (*catalogue.slices, *catalogue.physical)}


def _forget_old_chains(site: Site) -> None:
    """Small disks: the oldest chains go, after they were read entirely."""
    for chain in read_catalogue(site.target).chains[:-CHAINS_KEPT]:
        _repository(site, chain.id).check()
        shutil.rmtree(site.target.chains / chain.id)


def _read_everything(site: Site) -> None:
    catalogue = read_catalogue(site.target)
    for chain in catalogue.chains:
        _repository(site, chain.id).check()
        for archive in chain.archives:
            with tempfile.TemporaryDirectory() as folder:
                _repository(site, chain.id).extract(archive.id, Path(folder))
                size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
                assert size == archive.bytes, archive.id
    for piece in catalogue.slices:
        assert sum(map(len, read_sealed(site.target.slice(piece), site.identity))) == piece.bytes


def _repository(site: Site, chain: str) -> Repository:
    return Repository(site.target.repository(chain), read_secret(site.settings.passphrase_file))


@click.command()
@click.option("--times", default=1000, show_default=True, help="How often to kill.")
@click.option("--seed", type=int, help="Repeat what an earlier call did.")
@click.option("--minutes", type=float, help="Stop after so many, whatever was done by then.")
def main(times: int, seed: int | None, minutes: float | None) -> None:
    """Kill the backup program at random points, and look at what it leaves."""
    seed = seed if seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="backup-kills-") as directory:
        member = Mongod(Path(directory) / "mongod")
        member.start()
        try:
            site = Site(Path(directory) / "host", [member])
            done = 0
            while done < times and (minutes is None or time.monotonic() - began < minutes * 60):
                tally = torture(site, member, times=min(20, times - done), chance=chance)
                done += sum(tally.killed.values()) + sum(tally.finished.values())
                print(f"{done} rounds, {time.monotonic() - began:.0f} s: {tally}", flush=True)
        finally:
            member.stop()


if __name__ == "__main__":
    main()
