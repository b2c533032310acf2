"""Steps that are left out because there is nothing finite to go by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.carv import FiniteDraws
from carv_distill.errors import UserError
from carv_distill.processes import average_over_ranks


class StepSkips:
    """Says which steps are left out, and counts them on the device, without waiting for it.

    A step is left out where no draw of any process is finite, or its gradient is not. The optimiser is told
    by :meth:`skip`, as a gradient scaler of mixed precision tells it: neither parameters nor moments move.

    Args:
        most: steps left out in a row at which :meth:`check` stops the run.
        advice: what may help, as a message ends.
    """

    NAMES = ("dropped", "skipped", "in_a_row", "longest")

    def __init__(self, most: int, advice: str) -> None:
        self.most, self.advice = most, advice
        self.counts = dict.fromkeys(self.NAMES, torch.zeros(()))
        """Since the run began: draws that were not finite, of all processes; steps left out; of these the
        latest in a row, and the longest row."""

    def skip(self, finite: FiniteDraws, gradients: Iterable[Tensor], world_size: int) -> Tensor:
        """1 where the step is left out, 0 else; a float32 scalar for the `found_inf` of a fused optimiser.

        Args:
            finite: the draws of this process in this step.
            gradients: averaged over the processes.
        """
        total, sound = finite.take()
        mean = sound.float()
        average_over_ranks(mean, world_size)
        norm = nn.utils.get_total_norm(gradients)
        skipped = ((mean == 0) | ~norm.isfinite()).float()
        c = {name: count.to(mean.device, non_blocking=True) for name, count in self.counts.items()}
        in_a_row = (c["in_a_row"] + 1) * skipped
        self.counts = {
            "dropped": c["dropped"] + ((total - mean) * world_size).round(),
            "skipped": c["skipped"] + skipped,
            "in_a_row": in_a_row,
            "longest": torch.maximum(c["longest"], in_a_row),
        }
        return skipped

    def check(self) -> None:
        """UserError where too many steps in a row were left out; waits for the device."""
        if (longest := int(self.counts["longest"])) >= self.most:
            raise UserError(
                f"{longest} steps in a row had no finite draw or gradient, and were left out; the run stops, "
                f"and what it has kept is good ({self.advice})"
            )

    def metrics(self) -> dict[str, Tensor]:
        """Columns of the log."""
        return {"nonfinite/draws": self.counts["dropped"], "nonfinite/skipped_steps": self.counts["skipped"]}

    def state_dict(self) -> dict[str, Any]:
        """The counts; copies, on their device."""
        return {name: count.clone() for name, count in self.counts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from :meth:`state_dict`."""
        self.counts = {name: state[name].clone() for name in self.NAMES}
