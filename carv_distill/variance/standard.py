"""The paper's samplers and the best of ours."""

from __future__ import annotations

from carv_distill.carv import NoiseLevelSampler, Proposal

from .compare import Arm


def standard_arms(importance: Proposal, neyman: Proposal, noise: str = "iid") -> list[Arm]:
    """uniform, IW, Strat, IW+Strat as in the paper, and `best`.

    Args:
        importance: q ∝ √E‖g‖², what iid draws want.
        neyman: q ∝ √tr Cov(g | x, u), what strata want.
        noise: coupling of the noises in `best`: what a measured parity gate let through.
    """
    uniform = Proposal.uniform(importance.bins)
    return [
        Arm("uniform", NoiseLevelSampler(uniform, "iid")),
        Arm("IW", NoiseLevelSampler(importance, "iid")),
        Arm("Strat", NoiseLevelSampler(uniform, "stratified")),
        Arm("IW+Strat", NoiseLevelSampler(importance, "stratified")),
        Arm("best", NoiseLevelSampler(neyman, "nested", noise)),
    ]
