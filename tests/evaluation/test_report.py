import json
from pathlib import Path

import numpy as np
import pytest

from carv_distill.data.digits import DIGITS, load_digits_images
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import ClassifierFeatures
from carv_distill.evaluation.fid import compute_metrics
from carv_distill.evaluation.generate import generate_uint8
from carv_distill.evaluation.reference import Reference
from carv_distill.evaluation.report import Summary, evaluate_generator
from tests.helpers.features import extract_features, reference_of
from tests.helpers.reports import blurred, evaluate


@pytest.fixture(scope="module")
def reference(digits_features: ClassifierFeatures) -> Reference:
    return reference_of("digits", to_uint8(load_digits_images().images), digits_features)


def test_each_range_is_its_own_seeds(digits_features: ClassifierFeatures, reference: Reference) -> None:
    report = evaluate(digits_features, reference)
    assert report.seed_ranges == ((0, 39), (40, 79), (80, 119))
    for (first, last), metrics in zip(report.seed_ranges, report.metrics, strict=True):
        images = generate_uint8(blurred, range(first, last + 1), DIGITS)
        features = extract_features(digits_features, images, 16)
        assert metrics == compute_metrics(features, reference.features, kid_subsets=2)
    assert len({metrics.fid for metrics in report.metrics}) == 3


def test_batch_size_does_not_move_the_numbers(
    digits_features: ClassifierFeatures, reference: Reference
) -> None:
    first, second = (evaluate(digits_features, reference, batch_size=size) for size in (7, 40))
    for a, b in zip(first.metrics, second.metrics, strict=True):
        # the images are equal; convolutions of another batch size may differ in float32's last bits
        assert a.fid == pytest.approx(b.fid, rel=1e-5)


def test_summary_is_mean_deviation_and_minimum(
    digits_features: ClassifierFeatures, reference: Reference
) -> None:
    report = evaluate(digits_features, reference)
    for key, summary in report.summary().items():
        values = [getattr(metrics, key) for metrics in report.metrics]
        assert summary.mean == pytest.approx(np.mean(values))
        assert summary.std == pytest.approx(np.std(values, ddof=1))
        assert summary.minimum == min(values)
    assert set(report.summary()) == {"fid", "kid", "precision", "recall", "copied"}
    assert Summary.of([2.0]) == Summary(2.0, None, 2.0)


def test_json_holds_what_a_reader_needs(digits_features: ClassifierFeatures, reference: Reference) -> None:
    report = evaluate(digits_features, reference)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content == report.to_dict()
    assert content["images"] == 40
    assert content["seed_ranges"] == [[0, 39], [40, 79], [80, 119]]
    assert content["extractor"] == "digits"
    assert content["extractor_fingerprint"] == digits_features.fingerprint
    assert content["reference"] == "digits"
    assert content["summary"]["fid"]["mean"] == report.summary()["fid"].mean
    assert [entry["fid"] for entry in content["ranges"]] == [metrics.fid for metrics in report.metrics]


def test_statistics_alone_give_fid_alone(
    digits_features: ClassifierFeatures, reference: Reference, tmp_path: Path
) -> None:
    reference.statistics.save(tmp_path / "digits.npz")
    from_file = Reference.from_file(tmp_path / "digits.npz", digits_features)
    report = evaluate(digits_features, from_file, ranges=1)
    assert report.metrics[0].fid == evaluate(digits_features, reference, ranges=1).metrics[0].fid
    assert set(report.summary()) == {"fid"}
    assert report.reference == "digits.npz"
    assert report.to_dict()["summary"]["fid"]["std"] is None


@pytest.mark.parametrize(
    ("key", "images", "ranges", "batch_size"),
    [("images", 3, 3, 8), ("ranges", 10, 0, 8), ("batch_size", 10, 3, 0)],
)
def test_too_small_arguments_are_named(
    digits_features: ClassifierFeatures,
    reference: Reference,
    key: str,
    images: int,
    ranges: int,
    batch_size: int,
) -> None:
    with pytest.raises(UserError, match=f"{key}: found"):
        evaluate_generator(
            blurred, DIGITS, digits_features, reference, images=images, ranges=ranges, batch_size=batch_size
        )


def test_progress_bar_counts_the_images(
    digits_features: ClassifierFeatures,
    reference: Reference,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm")
    evaluate_generator(
        blurred,
        DIGITS,
        digits_features,
        reference,
        images=8,
        ranges=2,
        kid_subsets=1,
        progress=True,
        name="student",
    )
    shown = capsys.readouterr().err
    assert "16/16" in shown
    assert "FID" in shown
