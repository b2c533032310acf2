"""CLIP scores and CLIP's embeddings as features, with the model that knows the solids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from carv_distill.data.sets import to_uint8
from carv_distill.data.solids import combinations, labelled_solids, object_prompt, picture
from carv_distill.errors import UserError
from carv_distill.evaluation.clip import ClipFeatures, ClipScorer
from carv_distill.evaluation.features import load_extractor
from carv_distill.text_to_3d.object.turntable import turntable

MODEL = Path("checkpoints/shapes-teacher/clip")


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return ClipScorer(MODEL)


def views(colour: str, solid: str, count: int = 4) -> torch.Tensor:
    return picture(colour, solid, turntable(count), 32)


def test_a_score_is_a_hundred_times_the_cosine(scorer: ClipScorer) -> None:
    images = views("red", "cube", 2)
    model, processor = scorer._metric.model, scorer._metric.processor
    pixels = processor(images=list(((images + 1) * 127.5).round().to(torch.uint8)), return_tensors="pt")
    words = processor(text=["a red cube"], return_tensors="pt")
    seen = model.get_image_features(pixels["pixel_values"])
    told = model.get_text_features(words["input_ids"], words["attention_mask"])
    wanted = 100 * torch.nn.functional.cosine_similarity(seen, told).clamp(min=0)
    assert torch.allclose(scorer(images, "a red cube"), wanted, atol=0.1)


def test_true_pictures_score_higher_with_their_own_prompt(scorer: ClipScorer) -> None:
    for colour, solid in (("red", "cube"), ("yellow", "snowman"), ("blue", "ball")):
        own = scorer.mean(views(colour, solid), object_prompt(colour, solid))
        other = scorer.mean(views(colour, solid), object_prompt("green", "torus"))
        assert own.low > other.high


@pytest.mark.slow
def test_true_pictures_match_their_own_prompt_best(scorer: ClipScorer) -> None:
    """At least 9 of 10 views of all learned pairs, among 64 prompts: the model was trained on them."""
    pairs = [*combinations(held_out=False), *combinations(held_out=True)]
    prompts = [object_prompt(*p) for p in pairs]
    hits = [scorer.best_match(views(*pair, 2), prompts) == i for i, pair in enumerate(pairs[:56])]
    assert torch.cat(hits).float().mean() > 0.9


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no readable CLIP model"):
        ClipScorer(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"]
)
def test_a_model_that_asks_for_code_of_its_own_is_refused(name: str, tmp_path: Path) -> None:
    """In one line, whichever file asks; nothing is run, and nobody is asked."""
    folder = Path(shutil.copytree(MODEL, tmp_path / "clip"))
    content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    classes = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    (folder / name).write_text(json.dumps(content | {"auto_map": dict.fromkeys(classes, "evil.Evil")}))
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    for build in (ClipScorer, ClipFeatures):
        with pytest.raises(UserError, match=rf"{name} asks for code of its own \(auto_map\)") as caught:
            build(folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_one_flipped_bit_of_the_model_is_found(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODEL, tmp_path / "clip"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1000] ^= 16
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: its SHA-256"):
        ClipScorer(folder)


LONG = "a red torus a blue cube a red ball"
"""Beyond the ten tokens of this model."""


def test_a_prompt_that_is_too_long_is_cut_and_said(
    scorer: ClipScorer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its score is the kept words', end token included, and the rest is named once."""
    images = views("red", "torus", 2)
    scores = scorer(images, LONG)
    scorer(images, LONG)
    (said,) = [r.getMessage() for r in caplog.records if "CLIP model takes" in r.getMessage()]
    assert said == "the CLIP model takes 10 tokens; its score is without 'ball'"
    kept = LONG.removesuffix(" ball")
    assert torch.equal(scores, scorer(images, kept))
    assert torch.equal(scorer.best_match(images, [LONG, "a red"]), scorer.best_match(images, [kept, "a red"]))
    caplog.clear()
    scorer(images, "a red torus, side view")
    assert not caplog.records


def test_embeddings_tell_solids_apart() -> None:
    """Two views of one solid in one colour are nearer to each other than to those of another solid."""
    extractor = ClipFeatures(MODEL)
    data = labelled_solids(views=2)
    images = to_uint8(data.images[[0, 1, 16, 17]])  # a red ball twice, a red cube twice
    features = extractor(images)
    assert features.shape == (4, extractor.dim)
    assert features.dtype == torch.float32
    assert len(extractor.fingerprint) == 16
    distance = torch.cdist(features, features)
    assert distance[0, 1] < distance[0, 2:].min()
    torch.testing.assert_close(extractor(images[2:]), features[2:], rtol=0, atol=1e-5)
    grey = images[:, :1]
    assert torch.equal(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images), features)


def test_what_is_no_model_or_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fid\.weights: .*nowhere is not a folder"):
        load_extractor("clip", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"fid\.features: 'vgg' is not one of digits, classifier, "):
        load_extractor("vgg")
    with pytest.raises(UserError, match=r"takes uint8 \[n, 1 or 3, H, W\]"):
        ClipFeatures(MODEL)(torch.zeros(2, 3, 8, 8))
