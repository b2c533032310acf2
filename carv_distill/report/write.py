"""report.html of a run, or of several."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from carv_distill.errors import UserError, one_line
from carv_distill.files import write_text

from . import NAME
from . import measured_sections as measured
from . import run_sections as of_runs
from .files import RunFiles
from .object_section import object_section
from .page import Section, page

log = logging.getLogger(__name__)


def write_report(folders: Sequence[Path], place: Path, steps: Sequence[str] = ()) -> None:
    """Writes the page whole or not at all.

    Args:
        steps: commands that a finished run can go on with.

    Raises:
        UserError: a folder that is no run's or one of a newer version; a place that cannot be written.
    """
    write_text(place, report([RunFiles.read(folder) for folder in folders], steps))


def keep_report(run: Path, steps: Sequence[str] = ()) -> None:
    """Writes the page of a run into its folder; what keeps it from being written is a warning, as nothing of
    the training depends on it."""
    try:
        write_report([run], run / NAME, steps)
    except (UserError, OSError, RuntimeError, ValueError) as error:
        log.warning("%s is not written: %s", run / NAME, one_line(error))


def report(runs: Sequence[RunFiles], steps: Sequence[str] = ()) -> str:
    """The page."""
    if len(runs) == 1:
        (run,) = runs
        title, lead = run.name, of_runs.heading(run)
        parts: list[Section | None] = [
            object_section(run),
            of_runs.samples(runs),
            of_runs.about(runs, steps),
            of_runs.curves(runs),
            measured.quality(runs),
            measured.variance(run),
            measured.influence(run),
            of_runs.settings(runs),
        ]
    else:
        title, lead = f"{len(runs)} runs side by side", ", ".join(run.name for run in runs)
        parts = [
            of_runs.about(runs),
            of_runs.samples(runs),
            of_runs.curves(runs),
            measured.quality(runs),
            of_runs.settings(runs),
        ]
    return page(title, lead, [section for section in parts if section is not None])
