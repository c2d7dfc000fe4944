"""Carrying out what retention decides: manifests go first, so none ever claims what is going or gone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from loyalty.backup import files
from loyalty.backup.manifest import Catalogue, Target, flush_folder
from loyalty.backup.retention import Decision
from loyalty.backup.target import hold

_PATIENCE_S = 900
"""The log and the files are written for seconds or minutes at a time; a full may take hours and is not waited for."""


def prune(target: Target, catalogue: Catalogue, decisions: Sequence[Decision], passphrase: str) -> int:
    """Remove what is not to be kept; how many. BackupError when somebody else writes and goes on for long.

    One that is killed has removed some of it, and the next removes the rest.
    """
    gone = {(decision.what, decision.id) for decision in decisions if not decision.keep}
    with ExitStack() as held:
        held.enter_context(hold(target, "A prune"))
        held.enter_context(hold(target, "A prune", part="files", patience_s=_PATIENCE_S))
        held.enter_context(hold(target, "A prune", part="log", patience_s=_PATIENCE_S))
        for chain in catalogue.chains:
            if ("chain", chain.id) in gone:
                manifests = [target.manifest(archive) for archive in chain.archives]
                _remove(manifests, [target.chains / chain.id])
        for dump in catalogue.dumps:
            if ("dump", dump.id) in gone:
                _remove([target.manifest(dump)], [target.dumps / dump.id])
        slices = [piece for piece in catalogue.slices if ("log", piece.id) in gone]
        _remove([target.manifest(piece) for piece in slices], [target.slice(piece) for piece in slices])
        snapshots = [snapshot for snapshot in catalogue.files if ("files", snapshot.id) in gone]
        for snapshot in snapshots:
            files.remove(target, snapshot)
        if snapshots:
            _forget_in_second_copy(target, passphrase, {snapshot.id for snapshot in snapshots})
        copies = [copy for copy in catalogue.site if ("site", copy.id) in gone]
        _remove([target.manifest(copy) for copy in copies], [target.site_folder(copy) for copy in copies])
    return len(gone)


def _forget_in_second_copy(target: Target, passphrase: str, gone: set[str]) -> None:
    repository = files.files_repository(target, passphrase)
    if repository.path.exists():
        repository.delete([name for name in repository.archives() if name in gone])


def _remove(manifests: Sequence[Path], data: Sequence[Path]) -> None:
    for path in manifests:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in manifests}:
        flush_folder(folder)
    for path in data:
        with suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
