"""The exceptions that a user is meant to read."""

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend: a bad key, a missing file, a folder that does not fit.

    The message is one line that names the key or file, what was found and what is allowed. The entry
    scripts print it without a traceback and leave with exit status 2.
    """


def one_line(error: BaseException, limit: int = 200) -> str:
    """A library's message without line breaks; a longer one ends after a sentence, or else after a word."""
    text = " ".join(str(error).split())
    if len(text) <= limit:
        return text
    start = text[:limit]
    sentence = max(start.rfind(end) for end in (". ", "; ", "! "))
    return start[: sentence + 1] if sentence > limit // 3 else f"{start.rpartition(' ')[0] or start} …"


def lacks_memory(error: BaseException) -> bool:
    """Whether something did not fit into the memory of a device or of the host."""
    if isinstance(error, MemoryError):
        return True
    # torch has no class of its own for the host's memory, nor for sizes beyond what can be counted
    words = (
        "out of memory",
        "not enough memory",
        "can't allocate memory",
        "Storage size calculation overflowed",
        "Invalid size",
    )
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not loaded for this
    return isinstance(error, RuntimeError) and (named or any(word in str(error) for word in words))


def shown(value: object) -> str:
    """A value from outside as a message has it: short and on one line, whatever it is."""
    if isinstance(value, int) and abs(value) >> 4000:
        return "an astronomical number"  # Python refuses to print a million digits
    return reprlib.repr(value)[:100]


PREEMPTED = 75
"""Exit status of a run that was told to stop and can be started again: sysexits' "temporary failure"."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """A block whose UserErrors name an option as the user typed it, as --data for data.path, wherever one
    begins with the other name."""
    try:
        yield
    except UserError as error:
        text = str(error)
        key = next((key for key in names if text.startswith(f"{key}: ")), None)
        if key is None:
            raise
        raise UserError(names[key] + text[len(key) :]) from error


class StoppedError(Exception):
    """The work was told to stop; the message says by whom, and what of it is kept.

    Args:
        together: all processes of the work stop by agreement, after the same update.
    """

    def __init__(self, message: str, status: int, together: bool = True) -> None:
        super().__init__(message)
        self.status, self.together = status, together
