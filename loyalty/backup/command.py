"""What the commands share: the settings, the target, and how a command ends badly."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from pymongo.errors import PyMongoError

from loyalty.backup.errors import BackupError, Gone
from loyalty.backup.manifest import Target
from loyalty.backup.settings import Settings, SettingsError, load_settings


class Failed(click.ClickException):
    """The command did not do what was asked; the message says why and what to do."""

    exit_code = 1


class FailedForGood(Failed):
    """The database is gone: whoever restores it has nothing to wait for."""

    exit_code = 3


class Tool:
    """The settings, read on first use, and what follows from them."""

    def __init__(self, settings: Path) -> None:
        self._path = settings

    @cached_property
    def settings(self) -> Settings:
        """The settings. SettingsError ends the command with 2."""
        return load_settings(self._path)

    @property
    def target(self) -> Target:
        """Where everything is kept."""
        return Target(self.settings.target)


class Commands(click.Group):
    """A group whose commands end with one sentence, not a traceback, when something is not as it must be."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.echo(str(error), err=True)
            sys.exit(2)
        except Gone as error:
            raise FailedForGood(str(error)) from None
        except BackupError as error:
            raise Failed(str(error)) from None
        except PyMongoError as error:
            raise Failed(f"MongoDB does not answer as it should: {error}") from None
        except OSError as error:
            raise Failed(f"{error.filename or 'A file'}: {error.strerror}.") from None
