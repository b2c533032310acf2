"""Messages on the screen."""

from __future__ import annotations

import contextlib
import io
import logging

from carv_distill.engine.console import show_messages


def test_messages_go_where_standard_error_goes_now() -> None:
    """A program that redirects it for a while, as a notebook or a test, leaves no closed stream behind."""
    logger = logging.getLogger("carv_distill")
    kept = logger.handlers[:], logger.level
    logger.handlers[:] = []
    try:
        streams = [io.StringIO(), io.StringIO()]
        for number, stream in enumerate(streams):
            with contextlib.redirect_stderr(stream):
                show_messages()
                logger.info("message %d\x1b[2J", number)
        assert [s.getvalue() for s in streams] == [f"INFO     message {i}\\x1b[2J\n" for i in (0, 1)]
        assert len(logger.handlers) == 1
    finally:
        logger.handlers[:] = kept[0]
        logger.setLevel(kept[1])
