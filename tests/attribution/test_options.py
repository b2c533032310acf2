"""The names that an attribution is told: one list each, known without torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import fields

import carv_distill.attribution as attribution
from carv_distill.attribution import options
from carv_distill.carv import NOISES, STRATEGIES
from carv_distill.commands.influence import INFLUENCE
from tests.helpers.small import ROOT


def test_names_are_those_of_the_samplers() -> None:
    assert options.NOISES == NOISES
    assert set(options.INDEPENDENT) <= set(STRATEGIES)
    for name in ("NORMALISE", "PROJECTIONS", "SCORES"):
        assert getattr(attribution, name) is getattr(options, name)


def test_options_of_a_command_line_are_known_without_torch() -> None:
    """So that --help and a mistake do not wait for it."""
    words = "import sys, carv_distill.commands.influence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT, timeout=60).returncode == 0


def test_a_command_line_without_words_is_the_default() -> None:
    parser = argparse.ArgumentParser()
    INFLUENCE.add_options(parser)
    parsed = vars(parser.parse_args([]))
    plain = options.InfluenceOptions()
    for field in fields(plain):
        value = parsed[field.name]
        assert (tuple(value) if isinstance(value, list) else value) == getattr(plain, field.name), field.name


def test_a_gpu_of_any_number_computes_in_bf16() -> None:
    plain = options.InfluenceOptions()
    assert [plain.precision_on(d) for d in ("cpu", "cuda", "cuda:1")] == ["fp32", "bf16", "bf16"]
    assert options.InfluenceOptions(precision="fp32").precision_on("cuda") == "fp32"
