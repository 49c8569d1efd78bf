"""The one error a learner sees: a sentence with the rule, the value received and the nearest fix."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class WanError(ValueError):
    """A request that cannot be carried out, explained in one sentence for the person who made it."""


def check_path(path: object, what: str, *, example: str) -> Path:
    """A path with its ~ spelled out; WanError for a number, an empty text, or anything else that names no place."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise WanError(f"The {what} is named by a path, not {path!r}: try {example!r}.")
    try:
        named = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            named.lstat()
        return named
    except RuntimeError as error:  # ~someone, who has no home here
        raise WanError(
            f"The {what} {str(path)!r} begins with the home of someone unknown here: write it out."
        ) from error
    except (OSError, ValueError) as error:  # longer than any name may be, or with a zero byte in it
        raise WanError(
            f"The {what} is named by a path of this system, which {str(path)[:40]!r}... is not: shorten it."
        ) from error
