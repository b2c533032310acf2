"""Running sums over past draws, by bin of u."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RunningSums:
    """Named sums on N equal bins of u, in which a draw counts less with every step since it was made.

    Nothing waits for the device. On a GPU the sums are added in a fixed order.

    Args:
        bins: N ≥ 1.
        names: of the sums.
        decay: what a draw still counts one step later, in (0, 1].

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, bins: int, names: tuple[str, ...], decay: float) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, found {bins}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], found {decay}")
        self.bins, self.names, self.decay = bins, names, decay
        self.step: int | None = None
        """The last step whose draws are in the sums."""
        self._sums: dict[str, Tensor] = {}

    @property
    def seen(self) -> bool:
        """Whether there are any draws."""
        return self.step is not None

    def __getitem__(self, name: str) -> Tensor:
        """A sum by bin, [N], float64, where :meth:`to` or the latest draws put it."""
        return self._sums[name]

    def to(self, device: torch.device) -> None:
        """Moves the sums to the device of draws: loaded sums may lie where networks were before a trainer
        moved them."""
        self._sums = {name: sums.to(device) for name, sums in self._sums.items()}

    def refuse_present(self, step: int, what: str) -> None:
        """A step may use draws of earlier steps only.

        Raises:
            ValueError: draws of `step` or a later one are in the sums.
        """
        if self.step is not None and self.step >= step:
            raise ValueError(
                f"the {what} of step {step} was asked for after step {self.step} was observed: "
                "it may depend on draws of earlier steps only"
            )

    def index(self, u: Tensor) -> Tensor:
        """Bin of each u."""
        return (u * self.bins).long().clamp_(0, self.bins - 1)

    def rows(self, index: Tensor, **values: Tensor) -> Tensor:
        """One row per draw, [n, 1 + number of sums], float64: its bin, then what it adds to each sum.

        A few numbers per draw, whatever the size of what they were made from: processes that share a batch
        gather them.
        """
        return torch.stack([index.double(), *(values[name].double() for name in self.names)], 1)

    def by_bin(self, rows: Tensor) -> Tensor:
        """The same sums from one row per bin, [N, 1 + number of sums], however many draws there were."""
        sums = rows.new_zeros(self.bins, rows.shape[1])
        _add(sums, rows[:, 0].long(), rows)
        sums[:, 0] = torch.arange(self.bins, device=rows.device)
        return sums

    def add(self, step: int, rows: Tensor) -> None:
        """Adds draws of `step`, as :meth:`rows` gives them.

        Raises:
            ValueError: a step before the last one.
        """
        if self.step is not None and step < self.step:
            raise ValueError(f"step {step} was observed after step {self.step}")
        index, *values = rows.unbind(1)
        index = index.long()
        self.to(index.device)
        if not self._sums:
            self._sums = {
                n: torch.zeros(self.bins, dtype=torch.float64, device=index.device) for n in self.names
            }
        elif self.step is not None and step > self.step and self.decay < 1:
            for sums in self._sums.values():
                sums.mul_(self.decay ** (step - self.step))
        self.step = step
        for name, value in zip(self.names, values, strict=True):
            _add(self._sums[name], index, value)

    def state_dict(self) -> dict[str, Any]:
        """Step and sums; tensors are copies, on their device."""
        return {"observed": self.step, "sums": {name: t.clone() for name, t in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str | None = None) -> None:
        """Goes on from :meth:`state_dict`.

        Raises:
            ValueError: the state is of other sums, or of another number of bins.
        """
        sums: dict[str, Tensor] = state["sums"]
        if sums and set(sums) != set(self.names):
            raise ValueError(f"the saved sums are {', '.join(sums)}, not {', '.join(self.names)}")
        if any(len(t) != self.bins for t in sums.values()):
            raise ValueError(f"the saved sums have not {self.bins} bins")
        self.step = state["observed"]
        self._sums = {name: t.to(device or t.device, copy=True) for name, t in sums.items()}


def _add(sums: Tensor, index: Tensor, values: Tensor) -> None:
    """Adds values to the sums at their index, in place, in an order that is always the same."""
    if sums.device.type == "cpu":
        sums.index_add_(0, index, values)
    else:  # index_add_ adds in any order on a GPU
        sums.index_put_((index,), values, accumulate=True)


class Learner:
    """What learns from the draws of past steps."""

    def __init__(self, sums: RunningSums) -> None:
        self._sums = sums

    def by_bin(self, rows: Tensor) -> Tensor:
        """Rows of many draws, summed to one for each bin: [n, 1 + sums] → [N, 1 + sums]."""
        return self._sums.by_bin(rows)

    def add(self, step: int, rows: Tensor) -> None:
        """Records draws of `step` from their rows; those of several processes joined along the first axis, so
        that all of them learn the same."""
        self._sums.add(step, rows)


class StepStatistics:
    """What learners are to know of the draws of one step, held back until the step is done.

    Calls of the networks, parts of an accumulated batch and processes may be many: they are committed at
    once, a row per bin, so that processes exchange equally much however each of them cut its draws into
    chunks.

    Args:
        finite: a row that is not finite teaches nothing; else the learner sees it, and may refuse it.
    """

    def __init__(self, finite: bool = False) -> None:
        self.finite = finite
        self._rows: dict[Learner, list[Tensor]] = {}

    def record(self, learner: Learner, rows: Tensor) -> None:
        """Holds back rows that draws of this step gave."""
        if self.finite:
            rows = torch.where(rows.isfinite().all(1, keepdim=True), rows, 0)
        self._rows.setdefault(learner, []).append(learner.by_bin(rows))

    def commit(self, step: int, gather: Callable[[Tensor], Tensor]) -> None:
        """Adds what was recorded on all processes to every learner, and forgets it.

        Args:
            gather: joins the rows of all processes along the first axis.
        """
        for learner, rows in self._rows.items():
            learner.add(step, gather(learner.by_bin(torch.cat(rows))))
        self._rows.clear()
