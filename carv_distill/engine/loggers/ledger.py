"""What another store has of a run already, so that a resumed one goes on there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from carv_distill.errors import UserError
from carv_distill.files import read_json


class Ledger:
    """A small file in the run's folder: the run's id in a store, and up to which update it is logged there.

    An attempt that goes on from a checkpoint makes the updates after it again, with the same values; those
    that are there already are not logged twice.

    Raises:
        UserError: the file is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id: str | None = None
        self.step = -1
        if path.is_file():
            content = read_json(path)
            if not isinstance(content.get("id"), str) or not isinstance(content.get("step"), int):
                raise UserError(f"{path} is not as it was written; remove it, and a new run is logged there")
            self.id, self.step = content["id"], content["step"]
        self._before = self.step

    def begin(self, run_id: str) -> None:
        """The attempt is logged under this id."""
        self.id = run_id
        self._write()

    def is_new(self, step: int) -> bool:
        """Whether no earlier attempt has logged this update."""
        return step > self._before

    @property
    def next(self) -> int:
        """The first step that no earlier attempt has logged."""
        return self._before + 1

    def reach(self, step: int) -> None:
        """All is logged up to this update."""
        if step > self.step:
            self.step = step
            self._write()

    def _write(self) -> None:
        # whole or not there, but not synchronised: every logged update comes here
        scratch = self.path.with_name(f".{self.path.name}.tmp")
        scratch.write_text(json.dumps({"id": self.id, "step": self.step}) + "\n")
        os.replace(scratch, self.path)
