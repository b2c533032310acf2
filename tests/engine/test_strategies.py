"""Which of DDP's parts a module's processes have."""

from __future__ import annotations

import pytest
from lightning.pytorch import LightningModule

from carv_distill.engine.sharded_strategy import ShardedStrategy
from carv_distill.engine.strategies import UnwrappedStrategy, whole_strategy


@pytest.mark.parametrize("staged", [False, True])
def test_ddp_averages_gradients_and_sends_no_buffers(staged: bool) -> None:
    strategy = whole_strategy(LightningModule(), staged)
    assert not isinstance(strategy, UnwrappedStrategy)
    assert strategy._ddp_kwargs == {"find_unused_parameters": staged, "broadcast_buffers": False}


def test_a_module_that_averages_its_own_gradients_is_not_wrapped() -> None:
    module = LightningModule()
    module.automatic_optimization = False
    for strategy in (whole_strategy(module, False), ShardedStrategy()):
        strategy._lightning_module = module
        strategy.model = module
        strategy.configure_ddp()
        assert strategy.model is module
