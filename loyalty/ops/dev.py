"""The application alone, as an ordinary user: an embedded MongoDB, Redis if the machine has it, code that reloads."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import IO

import httpx

from loyalty.ops import demo
from loyalty.ops.console import Steps, out
from loyalty.ops.embedded import ReplicaSet
from loyalty.ops.environment import tool_environment
from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.process import run
from loyalty.ops.site import CHECKOUT, write_atomically

DIRECTORY = CHECKOUT / ".dev"
PROGRAM = "demo"


def serve(port: int) -> None:
    """Run until Ctrl-C. Data stays in .dev; remove the folder to start afresh."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends as Ctrl-C does: nothing stays behind
    steps = Steps()
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    _refuse_port_in_use(port)
    kept = _secrets()
    replica_set = ReplicaSet(DIRECTORY / "mongod")
    with contextlib.ExitStack() as stack:
        redis_url = _start_redis(stack)
        stack.callback(replica_set.stop)
        with steps.step("MongoDB, a replica set of one") as step:
            replica_set.start()
            step.note = f"port {replica_set.port}" + (
                "" if redis_url else " · no redis-server installed: going without"
            )
        environment = {
            **tool_environment(),
            "LOYALTY_MONGO_URI": replica_set.uri,
            "LOYALTY_SECRET_KEY": kept["secret_key"],
            "LOYALTY_SEAL_KEY": kept["seal_key"],
            "LOYALTY_STORAGE_PATH": str(DIRECTORY / "storage"),
            "LOYALTY_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "LOYALTY_SITE_NAME": "dev",
            "PROMETHEUS_MULTIPROC_DIR": str(DIRECTORY / "metrics"),
        }
        if redis_url:
            environment["LOYALTY_REDIS_URL"] = redis_url
        for name in ("storage", "metrics"):
            (DIRECTORY / name).mkdir(exist_ok=True)
        for stale in (DIRECTORY / "metrics").iterdir():
            stale.unlink()
        with steps.step("Collections, a program and a key"):
            _loyalty(environment, "migrate")
            # Both could be repeated; leaving them out makes every start but the first quicker.
            bootstrapped = replica_set.directory / "bootstrapped"
            if not bootstrapped.exists():
                _create_program(environment)
                _loyalty(
                    environment, "key", "import", PROGRAM, "--name", "dev", "--all-scopes", input_text=kept["api_key"]
                )
                bootstrapped.touch()
        with steps.step("The application"), (DIRECTORY / "jobs.log").open("ab") as jobs_log:
            serve_command = ["flask", "--app", "loyalty.app:create_app", "run", "--port", str(port), "--reload"]
            application = _start(serve_command, environment)
            jobs = _start(["loyalty", "jobs", "run"], environment, log=jobs_log)
            stack.callback(_end, application)
            stack.callback(_end, jobs)
            _wait_until_ready(application, port)
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {kept['api_key']}"}, timeout=30
            ) as api:
                demo.configure(api)  # one point per dollar, so that the first purchase shows something
        _explain(port, kept["api_key"])
        try:
            application.wait()
        except KeyboardInterrupt:
            out.print("\nStopping; the data stays in .dev.")
            return
        raise Failure("The application ended by itself.", "Read what it printed above.")


def _start(module: list[str], environment: dict[str, str], log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a module of .venv in a session of its own: Ctrl-C is for us, who stop things in the right order."""
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with its children (a reloader has one)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return


def _start_redis(stack: contextlib.ExitStack) -> str | None:
    """Start Redis on a socket if this machine has it; return its URL."""
    if not (binary := shutil.which("redis-server")):
        return None
    directory = DIRECTORY / "redis"
    directory.mkdir(exist_ok=True)
    # A socket's path has room for about 100 bytes, and a checkout may lie deep: so it is relative to the checkout.
    path = directory.relative_to(CHECKOUT) / "redis.sock"
    options = ["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no", "--daemonize", "no"]
    with (directory / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            [binary, *options], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    stack.callback(_end, process)
    return f"unix://{CHECKOUT / path}"


def _secrets() -> dict[str, str]:
    """Return this checkout's development secrets, made the first time."""
    file = DIRECTORY / "secrets.json"
    if not file.exists():
        made = {
            "secret_key": secrets.token_urlsafe(48),
            "seal_key": base64.b64encode(secrets.token_bytes(32)).decode(),
            "api_key": "lk_" + secrets.token_urlsafe(32),
        }
        write_atomically(file, json.dumps(made) + "\n")
    kept: dict[str, str] = json.loads(file.read_text())
    return kept


def _loyalty(environment: dict[str, str], *words: str, input_text: str | None = None) -> None:
    run([sys.executable, "-m", "loyalty", *words], env=environment, input_text=input_text)


def _create_program(environment: dict[str, str]) -> None:
    options = {"--name": "Demo", "--currency": "USD", "--timezone": "UTC", "--backdating-days": "36500"}
    words = [word for option in options.items() for word in option]
    _loyalty(environment, "program", "create", PROGRAM, *words, "--auto-enrol")


def _refuse_port_in_use(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise Refusal(f"Port {port} is in use.", f"./appliance dev --port {port + 1}") from None


def _wait_until_ready(application: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and application.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise Failure("The application did not become ready.", "Read what it printed above.")


def _explain(port: int, api_key: str) -> None:
    url = f"http://127.0.0.1:{port}"
    out.print(
        f"""
{url}       API; changes to the code are picked up
{url}/docs  its documentation

export LOYALTY_KEY={api_key}
curl -H "Authorization: Bearer $LOYALTY_KEY" {url}/v1/members
curl -H "Authorization: Bearer $LOYALTY_KEY" -H "Content-Type: application/json" {url}/v1/events -d \\
  '{{"source": "till", "id": "1", "type": "purchase", "member": {{"external_id": "alice"}},
    "occurred_at": "2026-01-31T12:00:00Z", "amount": "11.77", "currency": "USD"}}'
curl -H "Authorization: Bearer $LOYALTY_KEY" {url}/v1/members/ext:alice/balance

Ctrl-C stops everything. Data is kept in .dev; remove the folder to start afresh.
""",
        markup=False,
    )
