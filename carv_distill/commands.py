"""What all commands share: words that do not fit, and things that go wrong, end in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from carv_distill.errors import UserError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Parser(argparse.ArgumentParser):
    """Shows its description as it was written; a mistake is one line and exit status 2."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=form, **options)

    def error(self, message: str) -> NoReturn:
        """One line on standard error."""
        self.exit(2, f"error: {message}\n")


def run_command(work: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Does the work; the exit status.

    What the user can mend, and a disk that does not take the results, are one line and status 2.

    Args:
        work: raises UserError or OSError where something does not fit.
        interrupted: what to say after Ctrl-C: what is kept, and how to go on.
    """
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    return 0
