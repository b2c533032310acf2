"""Twelve objects by the default configuration of text-to-3D, six of prompts that the teacher has not seen.

    python -m studies.sds_objects [--quick]

How like the named solid their outlines are, in its best pose, at 15° and 60°; haze; bodies and Euler number
of their meshes; a picture of all of them on white; and what the teacher itself shows for their prompts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.study import Study, run_study, study_parser


def run(study: Study, options: argparse.Namespace) -> None:
    """Trains, measures, draws."""
    from studies.sds_objects import objects, teacher

    pairs, updates = (objects.PAIRS[:2], 40) if study.quick else (objects.PAIRS, None)
    objects.train(study.runs, pairs, options.seed, updates, options.workers)
    rows = objects.measure_all(study.runs, pairs, options.seed, updates, options.workers)
    sentences = objects.verdict(rows)
    study.write("objects", rows, verdict=sentences)
    names = [objects.run_of(*pair, options.seed, updates).name for pair in pairs]
    study.draw("objects", objects.draw(study.runs, rows, names, "white"))
    shown = [teacher.pictures(objects.CONFIG, row["prompt"]) for row in rows]
    study.draw("teacher", objects.sheet(rows, shown, teacher.TITLE))
    print("\n".join(sentences))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    return run_study("sds_objects", study_parser(__doc__, trains=True), run, words)


if __name__ == "__main__":
    sys.exit(main())
