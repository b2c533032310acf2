"""The table of `evaluate.py fid`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carv_distill.data.digits import load_digits_images
from carv_distill.data.sets import to_uint8
from carv_distill.evaluation.classifier import ClassifierFeatures
from carv_distill.evaluation.fid import HeldOut
from carv_distill.evaluation.floor import Floor, NoFloor, measure_floor
from carv_distill.evaluation.quality_table import floor_summary, report_table
from carv_distill.evaluation.reference import Reference
from carv_distill.evaluation.report import Summary
from tests.helpers.features import reference_of
from tests.helpers.reports import evaluate


@pytest.fixture(scope="module")
def reference(digits_features: ClassifierFeatures) -> Reference:
    return reference_of("digits", to_uint8(load_digits_images().images), digits_features)


def test_a_floor_kept_with_the_statistics_is_shown(
    digits_features: ClassifierFeatures, reference: Reference
) -> None:
    floor = HeldOut(0.254, 40)
    alone = Reference("kept", replace(reference.statistics, held_out=floor))
    assert measure_floor(alone, 40, "random") == floor
    student = evaluate(digits_features, alone)
    text = " ".join(str(report_table([student], floor)).split())
    table = report_table([student], floor)
    assert table.headers == ("", "student", "floor:\nreal images")
    assert [row[2] for row in table.rows] == ["0.25", "–"]  # no row of what none has
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
    assert report_table(reports).rows[2] == (header, *cells)


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
    assert "least FID" in str(report_table([one, student]))
    assert "±" not in str(report_table([one]))
    assert "least FID" not in str(report_table([one]))


def test_the_table_says_what_it_is(digits_features: ClassifierFeatures, reference: Reference) -> None:
    """The floor beside the generators, with its definition; what few images and labels in turn do; where
    there is no floor the reason."""
    student = evaluate(digits_features, reference)
    floor = measure_floor(reference, 40, "random", kid_subsets=1)
    assert isinstance(floor, Floor)
    text = str(report_table([student], floor))
    caption = " ".join(text.split())
    fids = torch.tensor([m.fid for m in floor.metrics])
    table = report_table([student], floor)
    assert table.headers[2] == "floor:\nperfect generator"
    assert table.rows[0][2] == f"{fids.mean():.2f} ± {fids.std():.2f}"
    assert [row[0] for row in table.rows] == ["FID", "least FID", "KID", "precision", "recall", "copied"]
    assert max(map(len, text.splitlines())) <= 80
    assert f"10 splits of the reference into {floor.sizes[0]:,} and {floor.sizes[1]:,} images" in caption
    assert "labels at random" in caption
    captioned = replace(student, conditions="captions")
    assert "captions at random" in " ".join(str(report_table([captioned], floor)).split())
    assert "least FID: of one range" in caption
    assert "nearer to an image of the reference than 95 % of those" in caption
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
