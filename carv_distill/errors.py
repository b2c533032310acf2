"""The exceptions that a user is meant to read."""

import reprlib


class UserError(Exception):
    """Something the user can mend: a bad key, a missing file, a folder that does not fit.

    The message is one line that names the key or file, what was found and what is allowed. The entry
    scripts print it without a traceback and leave with exit status 2.
    """


def one_line(error: BaseException, limit: int = 200) -> str:
    """A library's message without line breaks, cut to so many characters."""
    return " ".join(str(error).split())[:limit]


def shown(value: object) -> str:
    """A value from outside as a message has it: short and on one line, whatever it is."""
    if isinstance(value, int) and abs(value) >> 4000:
        return "an astronomical number"  # Python refuses to print a million digits
    return reprlib.repr(value)[:100]


class PreemptedError(Exception):
    """The work stopped because it was told to; what it had done is kept, and the message says who told it."""
