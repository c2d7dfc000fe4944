"""The same attack on a lab site: real servers, so also power cuts, partitions, slow cables and full disks."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import bson
import httpx

from loyalty.infra.mongo import Document
from loyalty.ops.errors import Failure
from loyalty.ops.info import access
from loyalty.ops.lab import Direction, Lab
from loyalty.ops.site import Site, topology_groups
from tests.concurrency.check import Verdict, judge
from tests.faults.nemesis import Fault
from tests.faults.workload import Connect, Stage, Tally

AHEAD_S = 90
DELAY_MS = 200
LOSS_PERCENT = 5
DATA = "/var/lib/mongodb"
FULL = f"{DATA}/filled-by-the-fault-test"
ROOM_MIB = 300
APPLICATION = "loyalty@*.service"
DROP_IN = "/etc/systemd/system/loyalty@.service.d/faults.conf"
CLOCK_DIRECTORY = "/etc/loyalty-faults"
PATIENCE_S = 180

_URI = 'uri = open("/etc/loyalty/credentials/mongo_uri").read().strip()\n'
_PRIMARY = _URI + "import pymongo\nprint(pymongo.MongoClient(uri).admin.command('hello')['primary'])\n"
_REDIS_MASTER = """
from loyalty.infra.sentinel import master_behind
url = open("/etc/loyalty/credentials/redis_url").read().strip()
print(master_behind(url).connection_pool.get_master_address()[0])
"""
_ENTRIES = (
    _URI
    + """
import base64, sys, zlib, bson, pymongo
found = pymongo.MongoClient(uri).loyalty.ledger.find_raw_batches({"program": PROGRAM}, sort=[("_id", 1)])
packer = zlib.compressobj(1)
for batch in found:
    sys.stdout.write(base64.b64encode(packer.compress(batch) + packer.flush(zlib.Z_SYNC_FLUSH)).decode() + "\\n")
"""
)
_CLOCK = """
import loyalty.infra.clock as clock
from datetime import timedelta
right = clock.system_clock
def wrong():
    try:
        seconds = float(open("/etc/loyalty-faults/ahead").read())
    except OSError:
        seconds = 0.0
    return right() + timedelta(seconds=seconds)
clock.system_clock = wrong
"""
_CLOCK_UNIT = f"""[Service]
Environment=PYTHONPATH={CLOCK_DIRECTORY}:/opt/loyalty/%i/app
"""

_BACK_TO_THE_DISK_BELOW = f"""
set -e
mountpoint -q {DATA} || exit 0
systemctl stop mongod
rm -f {FULL}
mkdir -p /run/below
mount --bind / /run/below
find /run/below{DATA} -mindepth 1 -delete
cp -a {DATA}/. /run/below{DATA}/
umount /run/below {DATA}
systemctl reset-failed mongod
systemctl start mongod
"""


class LabCluster:
    """A lab site that `./appliance up` made, of any topology. `faults` are those that its hosts can have."""

    def __init__(self, name: str) -> None:
        self.lab = Lab(name)
        site = Site.load(name)
        groups = topology_groups(site.topology)
        self.applications, self.mongods, self.redis = groups["app"], groups["mongodb"], groups["redis"]
        found = access(name)
        self.key = found.api_key
        self._tls = ssl.create_default_context(cafile=found.ca_file)
        # A node is asked by its own address, and its certificate names that of the site.
        self._tls.check_hostname = False
        self._addresses = site.addresses
        self.faults: dict[str, Fault] = {
            "mongod killed": lambda: self._signalled(self.primary, "KILL", "mongod.service"),
            "mongod frozen": lambda: self._stopped_process(self.primary),
            "mongod restarted": lambda: self._restarted(self.primary, "mongod.service"),
            "application killed": lambda: self._signalled(self._application, "KILL", APPLICATION),
            "application restarted": lambda: self._restarted(self._application, APPLICATION),
            "NGINX killed": lambda: self._signalled(self._application, "KILL", "nginx.service"),
            "Redis killed": lambda: self._signalled(self.redis_master, "KILL", "redis-server.service"),
            "power cut of the application": lambda: self._power_cut(self._application),
            "application's host frozen": lambda: self._frozen(self._application),
            "clock ahead": lambda: self._clock(AHEAD_S),
            "clock behind": lambda: self._clock(-AHEAD_S),
            "application slow": lambda: self._slow(self._application),
        }
        if len(self.mongods) > 1:
            self.faults |= {
                "power cut of the primary": lambda: self._power_cut(self._lasting_primary),
                "primary's host frozen": lambda: self._frozen(self.primary),
                "primary in a minority": lambda: self._partitioned(self.primary, self._other_mongods),
                "primary cut off from everybody": lambda: self._partitioned(self.primary, list),
                "primary cut off with an application": self._split,
                "primary deaf": lambda: self._partitioned(self.primary, self._other_mongods, "in"),
                "primary mute": lambda: self._partitioned(self.primary, self._other_mongods, "out"),
                "secondary cut off": lambda: self._partitioned(self._secondary, list),
                "primary slow": lambda: self._slow(self.primary),
                "disk full": self._full_disk,
            }

    # -- what the attack needs ----------------------------------------------------------------------------------------

    @property
    def connects(self) -> Sequence[Connect]:
        """How clients reach each of the nodes."""
        return [self._connect(host) for host in self.applications]

    def administer(self) -> httpx.Client:
        """A client of the first node that may make programs."""
        return self.connects[0](self.key)

    def prepare(self) -> None:
        """Make clocks adjustable and give one member of the replica set a small disk."""
        for host in self.applications:
            self.run(host, f"mkdir -p {CLOCK_DIRECTORY} $(dirname {DROP_IN})")
            self.run(host, f"cat > {CLOCK_DIRECTORY}/sitecustomize.py", _CLOCK)
            self.run(host, f"cat > {DROP_IN}", _CLOCK_UNIT)
            self.run(host, f"systemctl daemon-reload; systemctl restart '{APPLICATION}'")
        if "disk full" in self.faults:
            host = self.mongods[-1]
            self.run(host, "systemctl stop mongod")
            used = int(self.run(host, f"du -sm {DATA}").split()[0])
            self.lab.disk(host, DATA, mib=used + ROOM_MIB)
            self.run(host, "systemctl start mongod")
        self.wait_until_ready()

    def mend(self) -> None:
        """End every fault, whatever it was."""
        self.lab.heal()
        for host, running in self.lab.running().items():
            if host in (*self.applications, *self.mongods) and not running:
                self.lab.boot(host)
        for host in self.applications:
            self.run(host, f"rm -f {CLOCK_DIRECTORY}/ahead")
        for host in self.mongods:
            self.run(host, f"rm -f {FULL}; systemctl kill --signal=SIGCONT mongod; systemctl reset-failed mongod; true")
            self.run(host, "systemctl start mongod")

    def restore(self) -> None:
        """End every fault and take away what `prepare` brought."""
        self.mend()
        for host in self.applications:
            self.run(host, f"rm -rf {CLOCK_DIRECTORY} $(dirname {DROP_IN})")
            self.run(host, f"systemctl daemon-reload; systemctl restart '{APPLICATION}'")
        if "disk full" in self.faults:
            self.run(self.mongods[-1], _BACK_TO_THE_DISK_BELOW)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until every node says that it is ready."""
        deadline = time.monotonic() + PATIENCE_S
        for connect in self.connects:
            with connect(self.key) as node:
                while not _is_ready(node):
                    if time.monotonic() > deadline:
                        raise Failure(
                            f"{node.base_url} did not become ready within {PATIENCE_S} s.",
                            f"See: ./appliance status --site {self.lab.site}",
                        )
                    time.sleep(0.5)  # a poll: the node is another machine's

    def judge(self, stage: Stage, tally: Tally) -> Verdict:
        """What the ledger says to what the clients were told."""
        verdict = judge(self._entries(stage.program), tally.calls)
        verified = json.loads(self.lab.ssh(self.applications[0], ["loyalty", "ledger", "verify", "--json"]).stdout)
        verdict.wrong += [f"{defect['where']}: {defect['what']}" for defect in verified["defects"]]
        verdict.wrong += tally.defects
        return verdict

    def _entries(self, program: str) -> list[Document]:
        """What the ledger holds of a program, in order."""
        script = f"PROGRAM = {program!r}\n{_ENTRIES}"
        packed = self.run(self.applications[0], "/opt/loyalty/current/venv/bin/python -", script)
        raw = zlib.decompressobj().decompress(b"".join(base64.b64decode(line) for line in packed.split()))
        return bson.decode_all(raw, bson.codec_options.CodecOptions(tz_aware=True))

    # -- who is who ---------------------------------------------------------------------------------------------------

    def primary(self) -> str:
        """The host that takes writes now."""
        answer = self.run(self.applications[-1], "/opt/loyalty/current/venv/bin/python -", _PRIMARY)
        return answer.strip().partition(":")[0]

    def _lasting_primary(self) -> str:
        """The primary, which is not the member with the small disk: that one would lose its data with the power."""
        deadline = time.monotonic() + PATIENCE_S
        while (primary := self.primary()) == self.mongods[-1]:
            if time.monotonic() > deadline:
                raise Failure(f"{primary} stays primary.", "Give another member the same priority.")
            self.run(primary, "systemctl restart mongod")
        return primary

    def _secondary(self) -> str:
        return self._other_mongods()[0]

    def _other_mongods(self) -> list[str]:
        primary = self.primary()
        return [host for host in self.mongods if host != primary]

    def redis_master(self) -> str:
        """The host of Redis; where there are several, the one that their Sentinels call the master."""
        if len(self.redis) == 1:
            return self.redis[0]
        found = self.run(self.applications[-1], "/opt/loyalty/current/venv/bin/python -", _REDIS_MASTER).strip()
        return next(host for host, address in self._addresses.items() if found in (host, address))

    def _application(self) -> str:
        return self.applications[0]

    # -- faults -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _signalled(self, host: Callable[[], str], signal: str, unit: str) -> Iterator[str]:
        victim = host()
        self.run(victim, f"systemctl kill --signal=SIG{signal} '{unit}'")
        yield victim

    @contextmanager
    def _stopped_process(self, host: Callable[[], str]) -> Iterator[str]:
        victim = host()
        self.run(victim, "systemctl kill --signal=SIGSTOP mongod.service")
        yield victim
        self.run(victim, "systemctl kill --signal=SIGCONT mongod.service")

    @contextmanager
    def _restarted(self, host: Callable[[], str], unit: str) -> Iterator[str]:
        victim = host()
        self.run(victim, f"systemctl restart '{unit}'")
        yield victim

    @contextmanager
    def _power_cut(self, host: Callable[[], str]) -> Iterator[str]:
        victim = host()
        self.lab.kill(victim)
        yield victim
        self.lab.boot(victim)

    @contextmanager
    def _frozen(self, host: Callable[[], str]) -> Iterator[str]:
        victim = host()
        self.lab.freeze(victim)
        yield victim
        self.lab.thaw(victim)

    @contextmanager
    def _partitioned(
        self, host: Callable[[], str], others: Callable[[], list[str]], direction: Direction = "both"
    ) -> Iterator[str]:
        victim = host()
        self.lab.partition(victim, others(), direction=direction)
        yield victim
        self.lab.heal()

    @contextmanager
    def _split(self) -> Iterator[str]:
        primary, application = self.primary(), self._application()
        minority = {primary, application}
        for host in minority:
            self.lab.partition(host, [other for other in self._addresses if other not in minority])
        yield f"{primary} and {application}"
        self.lab.heal()

    @contextmanager
    def _slow(self, host: Callable[[], str]) -> Iterator[str]:
        victim = host()
        self.lab.slow(victim, milliseconds=DELAY_MS, loss_percent=LOSS_PERCENT)
        yield victim
        self.lab.heal()

    @contextmanager
    def _clock(self, ahead_s: int) -> Iterator[str]:
        victim = self._application()
        self.run(victim, f"echo {ahead_s} > {CLOCK_DIRECTORY}/ahead")
        yield victim
        self.run(victim, f"rm {CLOCK_DIRECTORY}/ahead")

    @contextmanager
    def _full_disk(self) -> Iterator[str]:
        victim = self.mongods[-1]
        self.run(victim, f"dd if=/dev/zero of={FULL} bs=1M 2>/dev/null || true")
        yield victim
        self.run(victim, f"rm {FULL}; systemctl reset-failed mongod; systemctl start mongod")

    # -- how ----------------------------------------------------------------------------------------------------------

    def run(self, host: str, line: str, input_text: str | None = None) -> str:
        """Run a shell line as root on a server. Failure with what it said."""
        try:
            done = self.lab.ssh(host, [line], input_text=input_text, timeout_s=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"On {host}, `{line[:120]}` did not end within {PATIENCE_S} s.") from None
        if done.returncode:
            raise Failure(f"On {host}, `{line[:120]}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _connect(self, host: str) -> Connect:
        def connect(key: str) -> httpx.Client:
            headers = {"Authorization": f"Bearer {key}"}
            url = f"https://{self._addresses[host]}"
            return httpx.Client(base_url=url, verify=self._tls, headers=headers, timeout=8)

        return connect


@contextmanager
def lab_cluster(name: str) -> Iterator[LabCluster]:
    """The site `name`, prepared for the attack, and afterwards as it was."""
    cluster = LabCluster(name)
    try:
        cluster.prepare()
        yield cluster
    finally:
        cluster.restore()


def _is_ready(node: httpx.Client) -> bool:
    try:
        return node.get("/readyz").is_success
    except httpx.TransportError:
        return False
