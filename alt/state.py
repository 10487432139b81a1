"""Where the log is that belongs to a user and not to one model."""

from __future__ import annotations

import os
from pathlib import Path

from alt.errors import AltError


def state_folder() -> Path:
    """Where this user's state is kept, after the XDG base directory specification.

    A relative path, good for nothing but to be shown, if there is neither a home nor
    `XDG_STATE_HOME`.
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():
        return named / "alt"
    try:
        home = Path.home()
    except RuntimeError:  # as in a container that is run by a user without a name
        home = Path("~")
    return home / ".local" / "state" / "alt"


def make_state_folder() -> Path:
    """The folder of this user's state, which is made where there is none.

    Raises:
        AltError: if it cannot be made.
    """
    folder = state_folder()
    if not folder.is_absolute():
        raise AltError(f"cannot make {folder}: there is no home folder; name a log")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AltError(f"cannot make {folder}: {error.strerror}; name a log") from error
    return folder
