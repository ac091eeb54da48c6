"""Which exceptions are the user's to mend, and the one line that says how."""

from __future__ import annotations

import re

OURS = re.compile(r"\S.*: .*(,\s+got\s|not installed)", re.DOTALL)
"""What `checks.check` and `checks.require` write: `name: rule, got value seen; remedy`."""


def user_error(error: Exception) -> str | None:
    """The line to show for an error that is the user's to mend; None for a bug, whose traceback is wanted.

    Told by the form of its message: any library raises ValueError, but only our checks write such lines.

    >>> user_error(ValueError("steps: must be at least 1, got 0; raise it"))
    'steps: must be at least 1, got 0; raise it'
    >>> user_error(ValueError("too many values to unpack"))
    """
    if isinstance(error, OSError):
        where = error.filename if error.filename is not None else "files"
        return f"{where}: must be accessible, got {error.strerror or error}; check the path and the disk"
    if isinstance(error, AssertionError) or not OURS.match(str(error)):
        return None
    return " ".join(str(error).split())
