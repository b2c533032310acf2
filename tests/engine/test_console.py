"""Messages on the screen."""

from __future__ import annotations

import contextlib
import io
import logging

import pytest

from carv_distill.engine.console import is_main_process, show_messages


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


@pytest.mark.parametrize(
    ("said", "main"),
    [
        ({}, True),
        ({"RANK": "0", "GROUP_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "GROUP_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "1"}, False),  # Lightning's own launch on a second node: its first process
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_one_process_of_all_nodes_is_the_main_one(
    said: dict[str, str], main: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() == main
