"""How many draws an attribution needs: variance, rankings, dimension, models trained anew, and video.

    python -m studies.attribution_budget [--quick] [--part draws …] [--workers 2]

draws       variance of a sample's gradient over K = 1 … 64 draws by every sampler, on digits and on the
            latents of a miniature Stable Diffusion; its parts; the norm over noise levels; rank correlation
            of rankings of 11 queries with one of a high budget, each query left out of its own
dimension   one convolutional model on mosaics of ever more digits: what strata are worth over the pixels
retraining  small teachers of random halves of the digits (linear datamodeling score), and without the
            most influential ones of a query

and, of a miniature Wan in checkpoints/clips-teacher, when they are asked for (hours):

video           what every sampler is worth over K, plain and weighed by motion, raw and normalised, by all
                parameters and attention's, under several laws of the level
video-rankings  rank correlation of rankings of 112 clips with a reference, and the share of the first ten
                that move as the query does, plain and weighed by motion
video-rankings-regime
                the same of 105 clips at 128 pixels, where levels make most of the variance, by 8 draws

What was computed is kept in --runs, and a study that was interrupted goes on. The paper:
arXiv 2605.21489, table 4 and figure 6.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from carv_distill.errors import UserError
from studies.study import Study, run_study, study_parser

if TYPE_CHECKING:
    from studies.cached import Compute

RANKINGS = ("video-rankings", "video-rankings-regime")
OF_CLIPS = ("video", *RANKINGS)
CLIPS_TEACHER = "checkpoints/clips-teacher"
TEACHERS = ("checkpoints/digits-teacher", "checkpoints/shapes-teacher", CLIPS_TEACHER)


def run(study: Study, options: argparse.Namespace) -> None:
    """Computes the parts asked for, writes their tables, figures and sentences."""
    if not Path("checkpoints/digits-teacher").is_dir():
        raise UserError("checkpoints: not in the current folder; start a study at the root of the repository")
    if (asked := [part for part in options.part if part in OF_CLIPS]) and not Path(CLIPS_TEACHER).is_dir():
        raise UserError(
            f"--part: {asked[0]} needs a teacher of clips in {CLIPS_TEACHER}, which is not there; python "
            "train.py --config configs/teacher_clips.yaml trains one, in the folder teacher of its run"
        )
    from studies.attribution_budget import dimension, draws, draws_table, figures, retraining
    from studies.cached import compute

    teachers = [path for path in map(Path, TEACHERS) if path.is_dir()]
    side_by_side = partial(compute, folder=study.runs / "cache", workers=options.workers, of=teachers)
    draws_sizes, mosaic_sizes, retraining_sizes = (
        part.QUICK if study.quick else part.FULL for part in (draws, dimension, retraining)
    )
    sentences = []
    if "draws" in options.part or "retraining" in options.part:
        best = draws.samplers(side_by_side, draws_sizes, options.seed)
    if "draws" in options.part:
        measured = draws.measure(side_by_side, draws_sizes, best, options.seed)
        variance, ranking = draws_table.variance_rows(measured), draws_table.ranking_rows(measured)
        levels, budgets = draws_table.level_rows(measured), draws_table.budget_rows(measured)
        sentences += (own := draws_table.verdict(variance, ranking, budgets))
        study.write("variance", variance, verdict=own, samplers=best)
        study.write("ranking", ranking)
        study.write("levels", levels, budgets=budgets)
        study.draw("ecm", figures.draw_ecm(variance))
        study.draw("ranking", figures.draw_ranking(ranking))
        study.draw("levels", figures.draw_levels(levels))
    if "dimension" in options.part:
        rows = dimension.rows(dimension.measure(side_by_side, mosaic_sizes, options.seed))
        sentences += (own := dimension.verdict(rows))
        study.write("dimension", rows, verdict=own)
        study.draw("dimension", figures.draw_dimension(rows))
    if "retraining" in options.part:
        trained = retraining.measure(side_by_side, retraining_sizes, best["digits"], options.seed)
        rows, removal = retraining.score_rows(trained), retraining.removal_rows(trained["removed"])
        sentences += (own := retraining.verdict(rows, removal))
        study.write("lds", rows, verdict=own)
        study.write("removal", removal)
        study.draw("top", figures.draw_top(trained["top"], removal))
    if "video" in options.part:
        sentences += run_video(study, side_by_side, options.seed)
    for part in RANKINGS:
        if part in options.part:
            sentences += run_rankings(study, side_by_side, part.replace("-", "_"), options.seed)
    print("\n".join(sentences))


def run_video(study: Study, side_by_side: Compute, seed: int) -> list[str]:
    """Effective compute of every sampler by the gradients of a text-to-video teacher."""
    from studies.attribution_budget import video, video_figures
    from studies.attribution_budget.strata import PARTS

    sizes = video.QUICK if study.quick else video.FULL
    clips = video.measure(side_by_side, sizes, CLIPS_TEACHER, video.SIZE, seed)
    model = video.model_of(CLIPS_TEACHER, video.SIZE, "motion")
    dimension = math.prod(model.training.shape)
    laws, finer = (video.laws_of(model.schedule, sizes.strata * parts) for parts in (1, PARTS))
    rows, profile = video.rows_of(clips, laws, finer, dimension), video.profile_rows(clips, dimension)
    sentences = video.verdict(rows, clips, laws)
    study.write("video", rows, verdict=sentences, profile=profile)
    study.draw("video", video_figures.draw_gains(rows))
    study.draw("video_levels", video_figures.draw_profile(profile))
    return sentences


def run_rankings(study: Study, side_by_side: Compute, name: str, seed: int) -> list[str]:
    """Rankings of clips, and whether their first ones move as the query does."""
    from studies.attribution_budget import video, video_figures, video_motion, video_rankings

    plan = (video_rankings.QUICK if study.quick else video_rankings.FULL)[name]
    sizes = (video_rankings.QUICK_LEVELS if study.quick else video_rankings.LEVELS).get(name)
    ranked = video_rankings.measure(side_by_side, plan, CLIPS_TEACHER, seed)
    count = len(video.model_of(CLIPS_TEACHER, plan.size, "motion").training)
    levels = (
        None
        if sizes is None
        else video_rankings.level_over_noise(side_by_side, plan, CLIPS_TEACHER, *sizes, seed)
    )
    correlation = video_rankings.correlation_rows(ranked["motion"], plan)
    motion = video_motion.motion_rows(ranked, video_rankings.facts_of(plan, count), seed)
    sentences = video_rankings.verdict(correlation, levels, plan) + video_motion.verdict(motion)
    study.write(name, correlation, verdict=sentences, motion=motion)
    study.draw(name, video_figures.draw_rankings(correlation, motion))
    return sentences


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("draws", "dimension", "retraining"), more=OF_CLIPS, trains=True)
    return run_study("attribution_budget", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
