"""How well pictures go with their prompts, of a generator and of the captioned images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from carv_distill.data.captioned import CaptionedSet
from carv_distill.data.sets import ImageSpec
from carv_distill.processes import Processes
from carv_distill.progress import progress
from carv_distill.variance import Estimate, Table, mean_estimate, share_estimate

from .clip import ClipFeatures
from .generate import Sample, generated_features
from .prompted import Prompted


@dataclass(frozen=True)
class PromptScores:
    """Of one row of the table; standard errors are over pictures, each with a prompt drawn for it."""

    name: str
    images: int
    score: Estimate
    """Mean of 100 max(cos, 0) of pictures and their own prompts."""
    recognised: Estimate
    """Share of pictures whose own prompt is the best match of all."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: mean, standard error and interval of 95 % of both."""
        named = {"clip": self.score, "recognised": self.recognised}
        rows = {key: {"mean": e.value, "se": e.se, "interval": [e.low, e.high]} for key, e in named.items()}
        return {"images": self.images, **rows}


@dataclass(frozen=True)
class PromptScorer:
    """Scores pictures of seeds 0 … N − 1 and their prompts, which are the same for every generator.

    Args:
        prompted: the prompts, with the CLIP model's recognition of them.
        spec: of the pictures.
        images: N.
        labels: how a seed's prompt is chosen; see :func:`~.generate.image_latents`.
        processes: they make and embed the pictures together, rank 0 measures.
    """

    extractor: ClipFeatures
    prompted: Prompted
    spec: ImageSpec
    images: int
    labels: str
    processes: Processes

    def generator(self, name: str, sample: Sample) -> PromptScores | None:
        """Of what a generator makes; None on other ranks than 0."""
        return self._scores(name, self.prompted.sample(sample))

    def captioned(self, name: str, data: CaptionedSet) -> PromptScores | None:
        """Of the images whose captions the prompts are, each once, or N of them: the most that a generator
        can be asked for."""
        count = min(self.images, len(data))
        each = replace(self, images=count, labels="turn") if count == len(data) else self
        return each._scores(name, lambda z, images: data.batch(images.cpu())[0].to(z.device))

    def _scores(self, name: str, sample: Sample) -> PromptScores | None:
        p, seeds = self.prompted, range(self.images)
        with progress(name, self.images, self.processes.rank == 0) as advance:
            features = generated_features(
                sample,
                seeds,
                p.spec(self.spec),
                self.extractor,
                processes=self.processes,
                progress=advance,
                labels=self.labels,
                latent=p.latent,
            )
        if self.processes.rank:
            return None
        assert p.recognition is not None
        score, recognised = p.recognition.each(features, p.numbers(seeds, self.labels))
        share = share_estimate(int(recognised.sum()), len(recognised))
        return PromptScores(name, self.images, mean_estimate(score.double().tolist()), share)


def prompt_table(runs: Sequence[tuple[str, Sequence[PromptScores]]], about: str) -> Table:
    """A row for each generator of each run, mean ± standard error.

    Args:
        about: begins the caption: which prompts, which CLIP model.
    """
    rows = [
        (run, s.name, f"{s.images:,}", _cell(s.score, 2), _cell(s.recognised, 3))
        for run, scores in runs
        for s in scores
    ]
    headers = ("run", "", "images", "CLIP score", "recognised")
    explained = (
        "±: standard error over pictures. CLIP score: mean of 100 max(cos, 0) of a picture and its prompt; "
        "recognised: share of pictures whose own prompt is the best match of all."
    )
    return Table("Pictures and their prompts", headers, rows, f"{about} {explained}")


def _cell(e: Estimate, digits: int) -> str:
    return f"{e.value:.{digits}f} ± {e.se:.{digits}f}"
