"""Run a command of the control machine, or say which one failed and what it printed."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

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
