"""What a run was started with and by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carv_distill.engine.environment import commands_of, write_environment
from carv_distill.tasks import load_config


def test_a_resumed_run_keeps_the_command_that_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them in order; of a run of before, the one that it has."""
    config = load_config("dmd_carv", [])
    file = tmp_path / "environment.json"
    begun, resumed = (
        ["train.py", "--config", "a.yaml", "seed=1"],
        ["train.py", "--config", "a.yaml", "--resume"],
    )
    for words in (begun, resumed):
        monkeypatch.setattr("sys.argv", [f"/somewhere/{words[0]}", *words[1:]])
        write_environment(tmp_path, config, "cpu", 1, 1)
    environment = json.loads(file.read_text())
    assert environment["command"] == resumed
    assert commands_of(environment) == [begun, resumed]
    del environment["commands"]
    assert commands_of(environment) == [resumed]
    assert commands_of({}) == []
    for damaged in (7, "train.py", [7], [[]], None):
        assert commands_of({"commands": damaged}) == []
