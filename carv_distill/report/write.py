"""report.html of a run, of several, or of results without one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from carv_distill.engine.task import PageWords
from carv_distill.errors import UserError, one_line
from carv_distill.files import write_text

from . import NAME
from . import influence_section as ranked
from . import measured_sections as measured
from . import run_sections as of_runs
from .blocks import missing
from .files import ResultFiles, RunFiles
from .measured_sections import RETRAINED
from .object_section import object_section
from .page import Section, page
from .variance_section import variance

log = logging.getLogger(__name__)

Steps = Mapping[str, str] | None
"""Name → command that a finished run can go on with; None while it trains."""
NO_STEPS: Steps = {}
NO_WORDS = PageWords()

READING_FAILS = (UserError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)
"""Of a page: a full disk, a chart that is not drawn, a result of another version."""


def write_report(
    folders: Sequence[Path],
    place: Path,
    steps: Steps = NO_STEPS,
    words: PageWords = NO_WORDS,
) -> None:
    """Writes the page whole or not at all.

    Args:
        steps: what is measured and not among them is done.
        words: of the runs' task.

    Raises:
        UserError: a folder that is no run's or one of a newer version; a place that cannot be written.
    """
    write_text(place, report([RunFiles.read(folder) for folder in folders], steps, words))


def keep_report(run: Path, steps: Steps = NO_STEPS, words: PageWords = NO_WORDS) -> Path | None:
    """Writes the page of a run into its folder, and gives its place; what keeps it from being written is a
    warning, as nothing of the training depends on it."""
    return _kept(run / NAME, lambda: write_report([run], run / NAME, steps, words))


def keep_results(folder: Path) -> Path | None:
    """The same of what was measured without a run."""
    return _kept(folder / NAME, lambda: write_text(folder / NAME, results(ResultFiles.read(folder))))


def _kept(place: Path, write: Callable[[], None]) -> Path | None:
    try:
        write()
    except READING_FAILS as error:
        log.warning("%s is not written: %s", place, one_line(error))
        return None
    return place


def results(of: ResultFiles) -> str:
    """The page of what was measured without a run."""
    parts = {
        "Influence": partial(ranked.influence, of),
        RETRAINED: partial(measured.retrained, of),
        "How it was measured": partial(of_runs.made_by, of),
    }
    found = [_made(name, make) for name, make in parts.items()]
    model = of.measured.get("influence", {}).get("model")
    lead = "What evaluate.py measured of a teacher that is given without a run"
    lead += f": how training samples of {model} influence given ones." if model else "."
    return page(of.name, lead, [section for section in found if section is not None])


def report(runs: Sequence[RunFiles], steps: Steps = NO_STEPS, words: PageWords = NO_WORDS) -> str:
    """The page."""
    about, samples = partial(of_runs.about, runs, words, steps), partial(of_runs.samples, runs, words)
    curves, quality = partial(of_runs.curves, runs, words), partial(measured.quality, runs)
    settings = partial(of_runs.settings, runs)
    if len(runs) == 1:
        (run,) = runs
        title, lead = run.name, of_runs.heading(run, words)
        parts: dict[str, Callable[[], Section | None]] = {
            "Object": partial(object_section, run),
            "Samples": samples,
            "What was run": about,
            "Curves": curves,
            "Quality of samples": quality,
            "CLIP score": partial(measured.clip, run),
            "Variance": partial(variance, run, words),
            "Influence": partial(ranked.influence, run),
            RETRAINED: partial(measured.retrained, run),
            "Settings": settings,
        }
    else:
        title, lead = f"{len(runs)} runs side by side", ", ".join(run.name for run in runs)
        parts = {
            "What was run": about,
            "Samples": samples,
            "Curves": curves,
            "Quality of samples": quality,
            "Settings that differ": settings,
        }
    made = [_made(name, make) for name, make in parts.items()]
    return page(title, lead, [section for section in made if section is not None])


def _made(title: str, make: Callable[[], Section | None]) -> Section | None:
    """A section, or why there is none: the others do not depend on it."""
    try:
        return make()
    except READING_FAILS as error:
        fault = f"{type(error).__name__}: {one_line(error)}"
        log.warning("the page's section %s is left out: %s", title, fault)
        why = f"What this section shows is not as this version writes it ({fault})."
        return Section(title, [missing(why)])
