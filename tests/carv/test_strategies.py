"""Strategies as objects: their bits, what they say of themselves, and that their names cost no torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import carv_distill.carv
import carv_distill.variance
from carv_distill.carv import STRATEGIES, NoiseLevelSampler, Proposal, stream
from carv_distill.carv.random_numbers import Uniforms
from tests.helpers.small import ROOT

GOLDEN = json.loads((Path(__file__).parent / "golden_draws.json").read_text())["probabilities"]
"""By strategy, for (rank, ranks, whether a stream is shared) and K = 1, 4 at R = 2: v, and the next number of
the stream. Written by the function before these objects."""
CASES = [(*ranks, k) for ranks in ((0, 1, False), (1, 2, False), (1, 2, True)) for k in (1, 4)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_probabilities_are_what_they_were_to_the_bit(name: str) -> None:
    for (rank, ranks, sharing, draws), (*expected, after) in zip(CASES, GOLDEN[name], strict=True):
        g = stream("golden", name, rank, draws)
        shared = stream("golden", "shared", draws) if sharing else None
        numbers = Uniforms(2, draws, rank, ranks, g, shared, torch.device("cpu"), torch.float64)
        assert STRATEGIES[name].probabilities(numbers).flatten().tolist() == expected
        assert torch.rand((), generator=g, dtype=torch.float64).item() == after


@pytest.mark.parametrize("name", STRATEGIES)
def test_independent_strategies_and_those_of_a_batch(name: str) -> None:
    """What a sample's draws are changes with other samples' numbers only where a strategy spreads a batch."""
    strategy = STRATEGIES[name]
    assert strategy.name == name
    assert strategy.independent != strategy.batch
    sampler = NoiseLevelSampler(Proposal.uniform(), name)
    levels = torch.stack([sampler.levels(2, 1, stream(name, i))[0][:, 0] for i in range(400)])
    correlation = torch.corrcoef(levels.T)[0, 1].item()
    assert (correlation < -0.3) == strategy.batch  # two strata of two samples: −3/4; SE 0.05


def test_pairs_need_an_even_number() -> None:
    assert [k for k in range(1, 7) if STRATEGIES["paired"].allows(k)] == [1, 2, 4, 6]
    assert all(s.allows(3) for name, s in STRATEGIES.items() if name != "paired")
    with pytest.raises(ValueError, match="paired draws must be even in number, found 3"):
        NoiseLevelSampler(Proposal.uniform(), "paired").levels(1, 3)


def test_names_cost_no_torch() -> None:
    code = (
        "import sys, carv_distill.variance, carv_distill.carv.strategies, carv_distill.carv.couplings\n"
        "from carv_distill.carv import NOISES, STATISTICS, STRATEGIES\n"
        "assert 'paired' in STRATEGIES and 'zero_sum' in NOISES and 'neyman' in STATISTICS\n"
        "assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("package", [carv_distill.carv, carv_distill.variance])
def test_a_face_has_the_names_that_its_types_have(package: object) -> None:
    """What mypy sees and what is imported when asked for are one list; an unknown name is an error."""
    assert package.__file__ is not None  # type: ignore[attr-defined]
    tree = ast.parse(Path(package.__file__).read_text())  # type: ignore[attr-defined]
    typed = [a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.asname]
    assert sorted(typed) == sorted(package.__all__)  # type: ignore[attr-defined]
    for name in typed:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Proposl'"):
        _ = package.Proposl  # type: ignore[attr-defined]
