"""What reaches the terminal: nothing that it would obey, and never an error of the work."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

_REORDERING = set(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
"""Characters that make what follows look as if it stood elsewhere."""


def printable(text: str) -> str:
    """The text with control characters, reordering marks and broken UTF-8 as escapes; line ends stay."""

    def harmless(character: str) -> bool:
        return character == "\n" or not (
            unicodedata.category(character) in ("Cc", "Cs") or character in _REORDERING
        )

    return "".join(c if harmless(c) else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float) -> str:
    """As 42 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def typed(command: Sequence[object]) -> str:
    """A process's words as one types them: sys.argv names the script without the interpreter."""
    program, *words = map(str, command)
    name = Path(program).name
    if name == "__main__.py":
        return shlex.join(["python", "-m", "carv_distill", *words])
    return shlex.join([*(["python"] if name.endswith(".py") else []), name, *words])


class Screen:
    """A standard stream that takes everything: what the other end cannot take is dropped.

    A reader that has left (`| head`), a full disk behind a redirection and a terminal of ASCII are no errors
    of what was measured or trained.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """As a text stream's."""
        try:
            return self._stream.write(text)
        except OSError:
            self._leave()
        return len(text)

    def flush(self) -> None:
        """As a text stream's."""
        try:
            self._stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Sends the rest, and what is still buffered, nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Makes standard output and standard error screens; one that is closed leads nowhere, so that no file
    that is opened later takes its number."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Screen):
            setattr(sys, name, Screen(stream or open(os.devnull, "w")))  # noqa: SIM115, as long as the program
