"""Run a command of the control machine, or say which one failed and what it printed."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from loyalty.ops.errors import Failure


def run(
    command: Sequence[str],
    *,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run ``command`` and return what it wrote to standard output.

    ``env`` is added to the environment of this process. Raises Failure with the command's own words when it
    exits with anything but 0, is not installed, or takes longer than ``timeout_s``.
    """
    line = shlex.join(command)
    try:
        # An empty standard input unless one is given: no command may wait for an answer nobody will type.
        done = subprocess.run(
            command,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **env} if env else None,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise Failure(f"{command[0]} is not installed.", f"Install it, then run again: {line}") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"`{line}` gave no answer within {timeout_s:.0f} s.") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-20:]
        raise Failure(f"`{line}` failed (exit code {done.returncode}).", details="\n".join(said))
    return done.stdout


def follow(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: IO[str],
    each: Callable[[str], None],
    grace_s: float = 20,
) -> int:
    """Run a long command: every line of its output goes to ``log`` and to ``each``. Returns its exit code.

    Ctrl-C reaches the command too (it shares the terminal): it gets ``grace_s`` to tidy up.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                log.write(line)
                each(line)
            return process.wait()
        except BaseException:
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
