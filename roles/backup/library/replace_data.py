#!/usr/bin/python
"""Put a restored data folder, or an empty one, in the place of a database's; a run that was cut off can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from pwd import getpwnam
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: replace_data
short_description: Put a restored data folder, or an empty one, in the place of a database's
description:
  - The old data is kept beside it as C(<path>.before-<id>), by renaming. A disk of its own cannot be renamed; what it
    holds is kept on it, as C(<path>/.before-<id>).
  - C(restored.json) in the new folder says what was done. A second run with the same id changes nothing; one after a
    run that was cut off, at whatever point, goes on with it. mongod must be stopped. Supports check mode.
options:
  path:
    description: The database's data folder.
    type: path
    required: true
  id:
    description: Name of the restore.
    type: str
    required: true
  arrived:
    description: >-
      Name of the folder within C(path) that holds the data to be put in its place. Without one the new folder is empty.
    type: str
    default: ""
  owner:
    description: Whose the folder and everything in it shall be.
    type: str
    default: mongodb
author: loyalty
"""

RETURN = r"""
pending:
  description: Whether it was still to be done.
  type: bool
  returned: always
aside:
  description: Where the old data is; empty where there was none.
  type: str
  returned: always
"""

MARK = "restored.json"
ASIDE = ".before-"


def is_done(path: Path, id: str) -> bool:
    try:
        return bool(json.loads((path / MARK).read_text(encoding="utf-8"))["id"] == id)
    except (OSError, ValueError, KeyError):
        return False


def replace(path: Path, aside: Path, arrived: str) -> None:
    """By renaming: each step is done whole or not at all, and shows whether it was."""
    if path.exists() and not aside.exists():
        path.rename(aside)
    if not path.exists():
        if arrived and (aside / arrived).is_dir():
            (aside / arrived).rename(path)
        else:
            path.mkdir(mode=0o700)


def replace_in_place(path: Path, aside: Path, arrived: str) -> None:
    """On a disk of its own: move aside what it holds, then move up what has arrived. `aside` is there when all is."""
    if not aside.exists():
        moving = path / f"{aside.name}.moving"
        moving.mkdir(mode=0o700, exist_ok=True)
        for entry in list(path.iterdir()):
            if entry.name not in (arrived, "lost+found") and not entry.name.startswith(ASIDE):
                entry.rename(moving / entry.name)
        moving.rename(aside)
    if arrived and (path / arrived).is_dir():
        for entry in list((path / arrived).iterdir()):
            entry.rename(path / entry.name)
        (path / arrived).rmdir()


def hand_over(path: Path, owner: str) -> None:
    """Everything belongs to the database's user, and nobody else may look into it."""
    user = getpwnam(owner)
    for folder, _, names in os.walk(path):
        for entry in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(entry, user.pw_uid, user.pw_gid, follow_symlinks=False)
    path.chmod(0o700)


def mark(path: Path, id: str) -> None:
    draft = path / (MARK + ".new")
    draft.write_text(json.dumps({"id": id}) + "\n", encoding="utf-8")
    draft.replace(path / MARK)


def run(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    path, id = Path(params["path"]), params["id"]
    own_disk = os.path.ismount(path)
    aside = path / f"{ASIDE}{id}" if own_disk else path.with_name(f"{path.name}{ASIDE}{id}")
    pending = not is_done(path, id)
    if pending and not check_mode:
        (replace_in_place if own_disk else replace)(path, aside, params["arrived"])
        hand_over(path, params["owner"])
        mark(path, id)
    return {"changed": pending, "pending": pending, "aside": str(aside) if aside.exists() else ""}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "id": {"type": "str", "required": True},
            "arrived": {"type": "str", "default": ""},
            "owner": {"type": "str", "default": "mongodb"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, check_mode=module.check_mode))
    except (OSError, KeyError) as error:
        module.fail_json(msg=f"{module.params['path']}: {error}. Mend that, then give the same command again.")


if __name__ == "__main__":
    main()
