"""Where reuse pays in text-to-3D, and why: exact teachers whose entropy is known.

    python -m studies.sds_entropy [--quick] [--part regime quality]

regime   W/B of a single draw over the teacher's spread, and effective compute of (1, K) at κ = 4.
quality  (4,1), (1,16) and (1,1) at equal price: the error against the known optimum.

The design, written before the runs, is DESIGN.md beside this file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from carv_distill.files import read_json
from studies.study import Row, Study, run_study, study_parser


def run(study: Study, options: argparse.Namespace) -> None:
    """Both parts, or the one asked for, beside what the other left."""
    from studies.sds_entropy import figures, regime

    found, raced = list[Row](), list[Row]()
    if "regime" in options.part:
        found = regime.regime_rows(regime.budgets(study.quick, study.runs, options.workers))
    if "quality" in options.part:
        spreads = regime.SPREADS[2::4] if study.quick else regime.SPREADS
        steps = 60 if study.quick else options.updates
        raced = regime.quality_rows(regime.races(steps, study.seeds, spreads, study.runs, options.workers))
        study.write("quality", raced)
    elif (path := study.folder / "quality.json").is_file():
        raced = read_json(path)["rows"]
    if found:
        sentences = regime.sentences(found, raced)
        study.write("regime", found, verdict=sentences)
        study.draw("regime", figures.draw_regime(found, raced))
        print("\n".join(sentences))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("regime", "quality"), trains=True, updates=600, seeds=3)
    return run_study("sds_entropy", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
