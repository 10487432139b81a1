"""Where the log is that belongs to a user and not to one model."""

from __future__ import annotations

import os
from pathlib import Path

from alt.errors import AltError


def state_folder() -> Path:
    """Where this user's state is kept, after the XDG base directory specification."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "alt"


def make_state_folder() -> Path:
    """The folder of this user's state, which is made where there is none.

    Raises:
        AltError: if it cannot be made.
    """
    try:
        folder = state_folder()
    except RuntimeError as error:
        raise AltError(f"cannot keep a log of your own: {error}; name a log") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AltError(f"cannot make {folder}: {error.strerror}; name a log") from error
    return folder
