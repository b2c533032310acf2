import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from carv_distill.data.digits import DIGITS, load_digits_images
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import ClassifierFeatures
from carv_distill.evaluation.fid import HeldOut, compute_metrics
from carv_distill.evaluation.floor import Floor, NoFloor, measure_floor
from carv_distill.evaluation.generate import generate_uint8
from carv_distill.evaluation.reference import Reference
from carv_distill.evaluation.report import (
    Report,
    Summary,
    evaluate_generator,
    floor_summary,
    report_table,
)
from tests.helpers.features import extract_features, reference_of


def blurred(z: Tensor, labels: Tensor) -> Tensor:
    return (
        torch.nn.functional.avg_pool2d(z, 3, stride=1, padding=1).tanh() + 0.05 * labels[:, None, None, None]
    )


@pytest.fixture(scope="module")
def reference(digits_features: ClassifierFeatures) -> Reference:
    return reference_of("digits", to_uint8(load_digits_images().images), digits_features)


def evaluate(
    extractor: ClassifierFeatures, reference: Reference, ranges: int = 3, batch_size: int = 16
) -> Report:
    return evaluate_generator(
        blurred,
        DIGITS,
        extractor,
        reference,
        name="student",
        images=40,
        ranges=ranges,
        batch_size=batch_size,
        kid_subsets=2,
    )


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
    assert set(report.summary()) == {"fid", "kid", "precision", "recall"}
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


def test_a_floor_kept_with_the_statistics_is_shown(
    digits_features: ClassifierFeatures, reference: Reference
) -> None:
    floor = HeldOut(0.254, 40)
    alone = Reference("kept", replace(reference.statistics, held_out=floor))
    assert measure_floor(alone, 40, "random") == floor
    student = evaluate(digits_features, alone)
    text = " ".join(str(report_table([student], floor)).split())
    assert "floor: real images 0.25" in text
    assert "Floor: 40 real images to test by in the generator's place, as kept with the statistics." in text
    assert "of another number" not in text
    assert "of another number" in str(report_table([student], HeldOut(0.254, 41)))


def test_table_shows_every_report(
    digits_features: ClassifierFeatures, reference: Reference, tmp_path: Path
) -> None:
    student = evaluate(digits_features, reference)
    reference.statistics.save(tmp_path / "digits.npz")
    other = evaluate(digits_features, Reference.from_file(tmp_path / "digits.npz", digits_features), ranges=1)
    text = str(report_table([student, other]))
    caption = " ".join(text.split())
    fid = student.summary()["fid"]
    assert fid.std is not None
    assert f"{fid.mean:.2f} ± {fid.std:.2f}" in text
    assert f"{fid.minimum:.2f}" in text
    assert f"{other.metrics[0].fid:.2f}" in text
    assert text.count("student") == 2
    assert "–" in text
    assert "…" not in text
    assert "3 seed ranges of 40" in caption
    assert "1 seed range of 40" in caption
    assert "against digits.npz" in caption
    assert digits_features.fingerprint in text


@pytest.mark.parametrize(
    ("kids", "header", "cells"),
    [
        ((101.729, -2.647), "KID", ("101.7 ± 4.6", "-2.6 ± 4.6")),  # digits features
        ((1.031, -0.931), "KID", ("1.03 ± 4.58", "-0.93 ± 4.58")),
        ((0.0172, -0.0042), "KID × 1000", ("17.2 ± 4582.0", "-4.2 ± 4582.0")),  # CLIP
        ((0.0023, 0.0), "KID × 1000", ("2.30 ± 4582.00", "0.00 ± 4582.00")),  # Inception
        ((0.00002, 0.0), "KID × 10⁶", ("20.0 ± 4582000.0", "0.0 ± 4582000.0")),
        ((0.0, 0.0), "KID × 1000", ("0.00 ± 4582.00", "0.00 ± 4582.00")),
    ],
)
def test_kid_is_shown_in_a_unit_that_reads(
    kids: tuple[float, ...],
    header: str,
    cells: tuple[str, ...],
    digits_features: ClassifierFeatures,
    reference: Reference,
) -> None:
    """One for the whole table, by its largest value; ± 4.582 or of three values about the mean."""
    student = evaluate(digits_features, reference)
    reports = [
        replace(student, metrics=tuple(replace(student.metrics[0], kid=kid + 4.582 * d) for d in (-1, 0, 1)))
        for kid in kids
    ]
    table = report_table(reports)
    assert table.headers[3] == header
    assert tuple(row[3] for row in table.rows) == cells


def test_a_runs_own_fid_is_told_from_the_mean(
    digits_features: ClassifierFeatures, reference: Reference
) -> None:
    """Where the settings are the run's; with one range there is nothing to tell apart."""
    student = evaluate(digits_features, reference)
    said = f"FIDs during training are of the first range alone: {student.metrics[0].fid:.2f} for the student."
    assert said in " ".join(str(report_table([student], as_trained=True)).split())
    one = replace(student, metrics=student.metrics[:1])
    for table in (report_table([student]), report_table([one], as_trained=True)):
        assert "during training" not in " ".join(str(table).split())


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


def test_the_table_says_what_it_is(digits_features: ClassifierFeatures, reference: Reference) -> None:
    """The floor beside the generators, with its definition; what few images and labels in turn do; where
    there is no floor the reason."""
    student = evaluate(digits_features, reference)
    floor = measure_floor(reference, 40, "random", kid_subsets=1)
    assert isinstance(floor, Floor)
    text = str(report_table([student], floor))
    caption = " ".join(text.split())
    fids = torch.tensor([m.fid for m in floor.metrics])
    assert f"floor: perfect generator  {fids.mean():.2f} ± {fids.std():.2f}" in text
    assert f"10 splits of the reference into {floor.sizes[0]:,} and {floor.sizes[1]:,} images" in caption
    assert "labels at random" in caption
    captioned = replace(student, conditions="captions")
    assert "captions at random" in " ".join(str(report_table([captioned], floor)).split())
    assert "min: the least FID" in caption
    assert "So few images raise FID" in caption
    assert "Labels in turn" not in caption
    assert "No floor" not in caption
    in_turn = replace(student, labels="turn", metrics=(replace(student.metrics[0], images=50_000),))
    caption = " ".join(str(report_table([in_turn], NoFloor("there are few"))).split())
    assert "floor" not in str(report_table([in_turn]))  # not asked for
    assert "labels in turn" in caption
    assert "Labels in turn lower FID, and KID to below 0" in caption
    assert "No floor: there are few." in caption
    assert "So few images" not in caption


def test_the_floor_has_its_summary_as_far_as_it_is_known() -> None:
    assert floor_summary(HeldOut(0.5, 100)) == {"fid": Summary(0.5, None, 0.5)}
    assert floor_summary(NoFloor("no features")) == floor_summary(None) == {}
