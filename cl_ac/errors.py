"""What a user can cause; each prints as one clear sentence and the command line exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: its text names the setting, the value, and what is allowed."""


class ConfigurationError(UserError):
    """A setting is wrong, or settings do not fit together."""


class DataError(UserError):
    """Data are missing, unreadable or not of the promised form."""


class ResumeError(UserError):
    """A run directory cannot be continued."""


class DamagedRun(UserError):
    """A file of a run is missing, cut short or not what the run wrote."""


class StorageError(UserError):
    """The disk refuses a file: it is full, not writable, or limits the size of files."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    choices = sorted(known)
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    # Of names that are as near, the one with the same letters: exchanged ones are the commonest slip.
    close.sort(key=lambda choice: sorted(choice) != sorted(name.lower()))
    hint = f"did you mean '{lowered[close[0]]}'? " if close else ""
    if not choices:
        return f"unknown {kind} '{name}'; there is none to choose from"
    return f"unknown {kind} '{name}'; {hint}known: {', '.join(choices)}"


def told(error: BaseException, limit: int = 200) -> str:
    """Somebody else's error in one line of about `limit` characters, with its type where the text says little."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[:limit] + " …"
    if isinstance(error, KeyError):
        return f"KeyError {text}"
    return text or type(error).__name__
