"""What all commands share: words that do not fit, and things that go wrong, end in one line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from carv_distill.errors import PreemptedError, UserError

PREEMPTED = 75
"""Exit status of a run that was told to stop and can be started again: sysexits' "temporary failure"."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Parser(argparse.ArgumentParser):
    """Shows its description as it was written; a mistake is one line and exit status 2."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        # A shortened option may be a misspelt one, and start the wrong work.
        super().__init__(description=description, formatter_class=form, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One line on standard error."""
        self.exit(2, f"error: {message}\n")


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from `least` on."""

    def parse(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} on")
        return number

    return parse


def number_from(least: float) -> Callable[[str], float]:
    """The type of an option that takes finite numbers from `least` on."""

    def parse(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise argparse.ArgumentTypeError(f"{word!r} is not a number from {least:g} on")
        return number

    return parse


def run_command(work: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Does the work; the exit status.

    What the user can mend, and a disk that does not take the results, are one line and status 2; work that a
    scheduler stopped has status 75.

    Args:
        work: raises UserError or OSError where something does not fit.
        interrupted: what to say after Ctrl-C: what is kept, and how to go on.
    """
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PreemptedError as stop:
        print(f"stopped: {stop}, --resume goes on from it", file=sys.stderr)
        return PREEMPTED
    except OSError as error:
        print(f"error: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    return 0
