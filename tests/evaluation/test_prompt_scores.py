"""CLIP scores of pictures and their prompts, on renders whose prompts are true or false."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from carv_distill.data.captioned import PromptList
from carv_distill.data.sets import ImageSpec, to_uint8
from carv_distill.data.solids import PromptedImages, prompted_solids
from carv_distill.evaluation.clip import ClipFeatures, ClipScorer
from carv_distill.evaluation.features import SOLIDS_CLIP
from carv_distill.evaluation.prompt_scores import PromptScorer, prompt_table
from carv_distill.evaluation.prompted import ROWS, Prompted
from carv_distill.processes import Processes

COUNT = 48
LATENT = (4, 2, 2)


@pytest.fixture(scope="module")
def data() -> PromptedImages:
    return prompted_solids(32, 2)


@pytest.fixture(scope="module")
def scorer(data: PromptedImages) -> PromptScorer:
    extractor = ClipFeatures(SOLIDS_CLIP)
    spec = ImageSpec("test", 3, 32, len(data.captions))
    return PromptScorer(extractor, Prompted.of(data, extractor, LATENT), spec, COUNT, "random", Processes())


def test_scores_are_torchmetrics_one_by_one(scorer: PromptScorer, data: PromptedImages) -> None:
    """Of true renders: mean and standard error of torchmetrics' scores, and of the best matches among all
    objects."""
    found = scorer.captioned("captioned images", data)
    assert found is not None
    numbers = scorer.prompted.images(range(COUNT))
    objects = [data.objects[label] for label in data.labels[numbers].tolist()]
    images, reference = data.images[numbers], ClipScorer(SOLIDS_CLIP)
    scores = torch.cat([reference(images[i : i + 1], text) for i, text in enumerate(objects)]).double()
    distinct = list(dict.fromkeys(data.objects))
    best = reference.best_match(images, distinct)
    right = torch.tensor([distinct[b] == o for b, o in zip(best.tolist(), objects, strict=True)]).double()
    for estimate, values in ((found.score, scores), (found.recognised, right)):
        assert estimate.value == pytest.approx(values.mean().item(), abs=1e-3)
        assert estimate.se == pytest.approx(values.std().item() / math.sqrt(COUNT), abs=1e-3)
    assert found.recognised.value > 0.8


def test_pictures_of_something_else_are_not_recognised(scorer: PromptScorer, data: PromptedImages) -> None:
    """A generator by caption of the first render of each caption is a true one; one of the caption that comes
    half the list later is not."""
    first = torch.tensor([data.labels.tolist().index(i) for i in range(len(data.captions))])

    def true(z: Tensor, captions: Tensor) -> Tensor:
        assert z.shape[1:] == LATENT
        return data.images[first[captions]]

    def false(z: Tensor, captions: Tensor) -> Tensor:
        return data.images[first[(captions + len(first) // 2) % len(first)]]

    right, wrong = scorer.generator("true", true), scorer.generator("false", false)
    assert right is not None
    assert wrong is not None
    assert right.recognised.low > wrong.recognised.high
    assert right.score.low > wrong.score.high
    rows = prompt_table([("run", [right, wrong])], "56 prompts.").rows
    assert [row[:3] for row in rows] == [("run", "true", "48"), ("run", "false", "48")]
    assert rows[0][3] == f"{right.score.value:.2f} ± {right.score.se:.2f}"
    assert right.to_dict()["recognised"]["se"] == right.recognised.se


def test_many_images_are_compared_part_by_part(scorer: PromptScorer, data: PromptedImages) -> None:
    recognition = scorer.prompted.recognition
    assert recognition is not None
    features = scorer.extractor(to_uint8(data.images)).repeat(12, 1)
    captions = data.labels.repeat(12)
    assert len(features) > ROWS
    score, recognised = recognition.each(features, captions)
    count = len(data)
    alone = recognition.each(features[:count], captions[:count])
    torch.testing.assert_close(score, alone[0].repeat(12))
    assert torch.equal(recognised, alone[1].repeat(12))
    means = score.mean().item(), recognised.float().mean().item()
    assert recognition.scores(features, captions) == pytest.approx(means)


def test_prompts_without_images_come_as_often_as_they_are_listed() -> None:
    """Share of the first of 2 : 1, n = 3,000, SE = √(2/9 n)/n = 0.0086; four of them."""
    prompts = PromptList(["a red torus", "a blue cube", "a red torus"])
    assert (prompts.captions, prompts.objects) == (["a red torus", "a blue cube"],) * 2
    numbers = Prompted(prompts.captions, prompts.labels, (1,), None).numbers(range(3000))
    assert abs((numbers == 0).double().mean().item() - 2 / 3) < 4 * 0.0086


def test_prompts_beyond_the_models_length_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    ClipFeatures(SOLIDS_CLIP).text_features(["a red torus", "a red torus a blue cube a red ball a cube"])
    (said,) = [r.getMessage() for r in caplog.records]
    assert said == "1 of 2 prompts are longer than the 10 tokens of the CLIP model; their ends do not count"
