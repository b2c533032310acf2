"""Is what the advisor predicts what one gets?

    python -m studies.advisor [--part distillation text_to_3d attribution] [--quick] [--workers 2]

Six pipelines: distillation in pixels and in latents, text-to-3D of voxels and of Gaussians, attribution of
images and of clips. Each prediction with its interval, beside a fresh measurement; those of some parts alone
into a table of their own. Design, committed before it: `studies/advisor/DESIGN.md`. Seconds are timed, so
measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.study import Study, run_study, study_parser

PARTS = ("distillation", "text_to_3d", "attribution")


def run(study: Study, options: argparse.Namespace) -> None:
    """Trains what is looked into, predicts and measures each, writes the table."""
    from studies.advisor import table

    parts = [part for part in PARTS if part in options.part]
    name = "_".join(["advisor", *(parts if len(parts) < len(PARTS) else ())])
    found = table.measure_all(study.runs, parts, study.quick, options.workers)
    rows = table.rows(found)
    said = table.sentences(found)
    study.write(name, rows, conclusion=said)
    study.draw(name, table.draw(found))
    print("\n".join(said))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    return run_study("advisor", study_parser(__doc__, parts=PARTS, trains=True), run, words)


if __name__ == "__main__":
    sys.exit(main())
