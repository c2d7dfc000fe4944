#!/usr/bin/python
"""Watch a release that has just been given the traffic, and give the traffic back when it fails."""

from __future__ import annotations

import http.client
import itertools
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: watch_release
short_description: Watch a release that has just been given the traffic
description:
  - Asks the release itself every half second, and reads how it answered its clients in the log that nginx writes while
    a release is watched. Fails as soon as too many answers are bad, and at the end when they were too slow.
  - On failure it first puts the old upstream back and reloads nginx, so that no client waits for the next task.
  - With I(seconds=0) it asks the release once, before it is given any traffic.
options:
  socket:
    description: UNIX socket of the release.
    type: path
    required: true
  api_key:
    description: The key that the questions carry; without one only /readyz is asked.
    type: str
    default: ""
  seconds:
    description: How long to watch.
    type: int
    default: 0
  log:
    description: The log of nginx; the format watch of the role app's upstream.conf.
    type: path
  requests_min:
    description: Fewer requests of clients than this prove nothing; then only the module's own questions count.
    type: int
    default: 20
  error_percent_max:
    description: Answers of 500, 502 and 504, or none at all, that are borne, in percent of the requests.
    type: float
    default: 1
  p99_ms_max:
    description: How long 99 of 100 requests may take, in milliseconds. Batches and files are not counted.
    type: int
    default: 2000
  flip_back:
    description: File of nginx's upstream and the copy that is put back in its place.
    type: dict
    suboptions:
      upstream: {description: The file that nginx reads., type: path, required: true}
      before: {description: The copy., type: path, required: true}
author: loyalty (@loyalty)
"""

EXAMPLES = r"""
- name: Watch the release
  watch_release:
    socket: /run/loyalty-green/gunicorn.sock
    seconds: 20
    log: /var/log/nginx/watch.log
"""

RETURN = r"""
watched:
  description: C(requests), C(errors), C(p99_ms) of the clients, and C(questions) of the module.
  type: dict
  returned: always
"""

BROKEN = frozenset({"500", "502", "504"})
"""503 and 507 are no fault of the release: a database that is away, a disk that is full."""
ASKED = ("/readyz", "/v1/members?limit=1")
PATIENCE = 3
"""So many questions in a row may go wrong, half a second apart."""
PAUSE_S = 0.1
PAUSES_PER_QUESTION = 5


class LocalConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass
class Watched:
    """What has been seen so far."""

    requests: int = 0
    errors: int = 0
    questions: int = 0
    wrong_in_a_row: int = 0
    last_wrong: str = ""
    seconds: list[float] = field(default_factory=list)

    def count(self, line: str, upstream: str) -> None:
        """Take a line `addresses|states|seconds|long` of the log. What the old colour answered is not counted.

        A request that was tried a second time, with the old colour, has two addresses and two states; the first counts.
        """
        addresses, states, seconds, long = line.split("|")
        address, state, took = (re.split(r", | : ", text)[0] for text in (addresses, states, seconds))
        if address != upstream:
            return
        self.requests += 1
        self.errors += state in BROKEN
        if long == "0" and took != "-":
            self.seconds.append(float(took))

    def answered(self, wrong: str) -> None:
        """Take the answer to a question: nothing, or what is wrong with it."""
        self.questions += 1
        self.wrong_in_a_row = self.wrong_in_a_row + 1 if wrong else 0
        self.last_wrong = wrong or self.last_wrong

    @property
    def p99_ms(self) -> int:
        """What 99 of 100 requests did not exceed, in milliseconds."""
        ordered = sorted(self.seconds)
        return round(1000 * ordered[int(0.99 * len(ordered))]) if ordered else 0

    def breach(self, requests_min: int, error_percent_max: float) -> str:
        """Why the release cannot stay; empty while it can."""
        if self.wrong_in_a_row >= PATIENCE:
            return f"it answered {self.wrong_in_a_row} questions in a row with {self.last_wrong}"
        if self.requests >= requests_min and 100 * self.errors > error_percent_max * self.requests:
            return f"{self.errors} of {self.requests} requests failed (500, 502 or 504)"
        return ""

    def slow(self, requests_min: int, p99_ms_max: int) -> str:
        """Why the release is too slow to stay; empty when it is not."""
        if len(self.seconds) >= requests_min and self.p99_ms > p99_ms_max:
            return f"99 of 100 requests took up to {self.p99_ms} ms; {p99_ms_max} ms are borne"
        return ""


def ask(path: str, question: str, api_key: str, timeout_s: float) -> str:
    """What is wrong with the answer to GET `question`; empty when nothing is."""
    connection = LocalConnection(path, timeout_s)
    headers = {"Host": "localhost"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    try:
        connection.request("GET", question, headers=headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"{question}: {error or type(error).__name__}"
    finally:
        connection.close()
    return f"{question}: {answer.status}" if answer.status >= 500 else ""


def new_lines(log: Path) -> Iterator[list[str]]:
    """What has been written to the log since the last time; the file may not be there yet."""
    position, rest = 0, ""
    while True:
        text = ""
        if log.exists():
            with log.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(position)
                text = stream.read()
                position = stream.tell()
        *lines, rest = (rest + text).split("\n")
        yield lines


def watch(wanted: dict[str, Any]) -> tuple[Watched, str]:
    """Watch until the time is over or something is wrong; what was seen, and the breach."""
    seen = Watched()
    questions = ASKED if wanted["api_key"] else ASKED[:1]
    upstream = f"unix:{wanted['socket']}"
    lines: Iterator[list[str]] = new_lines(Path(wanted["log"])) if wanted["log"] else itertools.repeat([])
    limits = wanted["requests_min"], wanted["error_percent_max"]
    end = time.monotonic() + wanted["seconds"]
    turn = 0
    while True:
        if turn % PAUSES_PER_QUESTION == 0:
            wrongs = (ask(wanted["socket"], q, wanted["api_key"], wanted["p99_ms_max"] / 1000) for q in questions)
            seen.answered(next(filter(None, wrongs), ""))
        for line in next(lines):
            seen.count(line, upstream)
        if breach := seen.breach(*limits):
            return seen, breach
        if time.monotonic() >= end and not seen.wrong_in_a_row:
            return seen, seen.slow(wanted["requests_min"], wanted["p99_ms_max"])
        turn += 1
        time.sleep(PAUSE_S)


def put_back(flip_back: dict[str, str] | None) -> bool:
    """Give the traffic to the old colour again."""
    if not flip_back:
        return False
    Path(flip_back["before"]).replace(flip_back["upstream"])
    subprocess.run(["systemctl", "reload", "nginx.service"], check=True, capture_output=True)
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "api_key": {"type": "str", "default": "", "no_log": True},
            "seconds": {"type": "int", "default": 0},
            "log": {"type": "path"},
            "requests_min": {"type": "int", "default": 20},
            "error_percent_max": {"type": "float", "default": 1.0},
            "p99_ms_max": {"type": "int", "default": 2000},
            "flip_back": {
                "type": "dict",
                "options": {
                    "upstream": {"type": "path", "required": True},
                    "before": {"type": "path", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    seen, breach = watch(module.params)
    watched = {"requests": seen.requests, "errors": seen.errors, "p99_ms": seen.p99_ms, "questions": seen.questions}
    if breach:
        back = put_back(module.params["flip_back"])
        module.fail_json(msg=f"The new release was watched: {breach}.", watched=watched, changed=back, breach=breach)
    module.exit_json(changed=False, watched=watched)


if __name__ == "__main__":
    main()
