import pytest

from carv_distill.commands.command import measure
from carv_distill.commands.evaluate import COMMANDS
from carv_distill.errors import UserError

SHARED = {"fid", "reference", "clip", "influence"}


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - SHARED))
def test_a_command_of_one_process_refuses_several_before_it_looks_at_anything(name, monkeypatch):
    """All of them would do the same work, and write the same file."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=rf"torchrun: {name} .* start python evaluate.py {name} without"):
        measure(COMMANDS[name], None)


def test_the_others_are_those_that_share_work_between_processes():
    assert {name for name, command in COMMANDS.items() if command.shared} == SHARED
