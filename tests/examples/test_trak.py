"""The model output for TRAK, in traker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.attribution.gradients.projection import Adapted
from carv_distill.attribution.ranking.scores import TrakScores
from carv_distill.carv import Draws
from tests.helpers.attributed_network import Network, drawn, losses, own_features, pictures
from tests.helpers.examples import load

trak: Any = pytest.importorskip("trak")
projectors: Any = pytest.importorskip("trak.projectors")
computers: Any = pytest.importorskip("trak.gradient_computers")
SIZE, SEED, DAMPING = 32, 7, 1e-2
TRAIN, QUERIES = pictures(12, "train"), pictures(3, "queries")


def output(draws: Draws) -> Any:
    return load("integrations/trak/denoising_output.py").DenoisingOutput(losses, draws)


def test_gradients_are_this_projects() -> None:
    """Sample by sample, to 1e-12 of the largest entry in float64; buffers are given to the network."""
    network = Network().double()
    size = sum(p.numel() for p in network.parameters())
    computer = computers.FunctionalGradientComputer(network, output(drawn(0)), size, torch.float64, "cpu")
    by_parameter = computer.compute_per_sample_grad(TRAIN)
    found = torch.cat([g.flatten(1) for g in by_parameter.values()], 1)
    expected = own_features(network, TRAIN, drawn(0))
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    assert torch.equal(computer.compute_loss_grad(TRAIN), torch.ones(12, 1))


def projector(kind: str, size: int) -> Any:
    """Of TRAK's own, or of this project's, as TRAK takes it."""
    if kind == "sketch":
        return load("integrations/trak/denoising_output.py").SketchProjector(SIZE, SEED)
    kind = projectors.ProjectionType.rademacher
    # traker 0.3.2 has lost the matrix of a single block by the time that queries are scored
    return projectors.BasicProjector(size, SIZE, SEED, kind, "cpu", block_size=16, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["basic", "sketch"])
def test_scores_are_this_projects(tmp_path: Path, kind: str) -> None:
    """To 1e-5 of the largest score: TRAK stores and inverts in float32. It divides (Φᵀ Φ + λ I)⁻¹ by its mean
    absolute entry."""
    network = Network().double()
    size = sum(p.numel() for p in network.parameters())
    traker = trak.TRAKer(
        network,
        output(drawn(0)),
        len(TRAIN[0]),
        save_dir=str(tmp_path),
        device="cpu",
        projector=projector(kind, size),
        use_half_precision=False,
        lambda_reg=DAMPING,
        logging_level=40,
    )
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    traker.load_checkpoint(weights, model_id=0)
    for rows in torch.arange(12).split(5):
        traker.featurize([part[rows] for part in TRAIN], num_samples=len(rows))
    traker.finalize_features()
    traker.start_scoring_checkpoint("queries", weights, model_id=0, num_targets=3)
    traker.score(QUERIES, num_samples=3)
    found = torch.tensor(traker.finalize_scores("queries")).double().T

    def features(sample: tuple[Tensor, Tensor]) -> Tensor:
        return own_features(network, sample, drawn(0), Adapted(projector(kind, size)))[:, None]

    queries, train = features(QUERIES), features(TRAIN)
    kernel = train[:, 0].T @ train[:, 0] / size
    inverse = torch.linalg.inv(kernel + DAMPING * torch.eye(SIZE, dtype=torch.float64))
    scores = TrakScores(queries, lambda: [train], DAMPING * SIZE / float(kernel.trace()))()
    scores = scores / (len(train) * inverse.abs().mean())
    assert (found - scores).abs().max() < 1e-5 * scores.abs().max()
