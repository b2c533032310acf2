"""Importance and stratified sampling on integrals known exactly.

    python -m studies.toy_importance [--quick] [--out FOLDER] [--seed N]

The paper's toy (arXiv 2605.21489) is a one-dimensional integrand on which an oracle proposal is worth about
4 × the compute of uniform draws and a Gaussian at the peak about 2.2 ×. We do not have its formula: the
integrand here is OURS, with round parameters chosen so that the exact figures come near those two,

    g(u, ε) = f(u) (1 + ε),    f(u) = 1 + 10 exp(−(u − 0.35)²/(2 · 0.04²)),    ε ~ N(0, 1),

oracle q* ∝ |f|, surrogate q = 0.8 · (Gaussian of the peak's place and width) + 0.2 · uniform. So these two
figures are no evidence for the paper's; what the study checks is that Proposal and NoiseLevelSampler realise
the variances that quadrature gives, and at which rate in K each strategy lowers them. Cost is the number
of draws (upstream free): ECM and relative efficiency are then the same ratio of variances at equal K.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.study import Study, run_study, study_parser


def run(study: Study, options: argparse.Namespace) -> None:
    """Measures, compares with the exact figures, writes and draws."""
    from studies.toy_importance import figures, tables

    cells = tables.measure_cells(options.seed, study.quick)
    ecm, rates = tables.ecm_rows(cells), tables.rate_rows(cells)
    slopes, cosines = tables.slope_rows(cells), tables.cosine_rows(cells)
    summary = tables.summary_rows(cells)
    verdict = tables.verdict(cells, summary)
    study.write("ecm", ecm, integrand=tables.DESCRIPTION)
    study.write("rates", rates)
    study.write("slopes", slopes)
    study.write("cosine", cosines)
    study.write("summary", summary, verdict=verdict, integrand=tables.DESCRIPTION)
    study.draw("ecm", figures.draw_ecm(ecm))
    study.draw("rates", figures.draw_rates(rates, slopes, cosines))
    print("\n".join([*verdict, "", tables.cosine_table(cosines)]))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    return run_study("toy_importance", study_parser(__doc__), run, words)


if __name__ == "__main__":
    sys.exit(main())
