"""Optimisers whose step can be recorded: their learning rates are tensors on the device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class _Rate:
    """The learning rate of a group: a tensor that graphs read, and the number written to it."""

    tensor: Tensor
    value: float
    version: int  # of the tensor when the number was written

    def write(self, value: float) -> None:
        self.tensor.fill_(value)
        self.value, self.version = value, self.tensor._version

    def read(self) -> float:
        """The number; from the device if a scheduler has written to the tensor itself."""
        return self.value if self.tensor._version == self.version else self.tensor.item()


class CapturableOptimizers:
    """Prepares optimisers for graphs, and keeps their learning rates up to date.

    A schedule may change ``group["lr"]`` in any way; all other settings belong to a graph's key.

    Args:
        optimizers: of torch.optim, with the setting ``capturable``.
        device: of their parameters.

    Raises:
        ValueError: an optimiser cannot be recorded.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], device: torch.device):
        for optimizer in optimizers:
            if any("capturable" not in group for group in optimizer.param_groups):
                raise ValueError(
                    f"capture=True got {type(optimizer).__name__}, expected an optimizer that a "
                    "CUDA graph can hold, one with the setting capturable; use torch.optim.Adam "
                    "or AdamW"
                )
        self._optimizers = list(optimizers)
        self._device = device
        self._own = [[bool(g["capturable"]) for g in each.param_groups] for each in optimizers]
        self._rates: list[list[_Rate]] = []

    def prepare(self) -> None:
        """Make the optimisers capturable, at the start and after a checkpoint was loaded."""
        self._rates = []
        for optimizer in self._optimizers:
            rates = []
            for group in optimizer.param_groups:
                rates.append(
                    _Rate(torch.zeros((), dtype=torch.float32, device=self._device), 0.0, 0)
                )
                rates[-1].write(float(group["lr"]))
                group["lr"] = rates[-1].tensor
                group["capturable"] = self._device.type == "cuda"
            for parameter, state in optimizer.state.items():
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(parameter.device)
            self._rates.append(rates)

    def write_rates(self) -> None:
        """Write the learning rates that a schedule has set to the tensors that graphs read."""
        for optimizer, rates in zip(self._optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                given = group["lr"]
                if given is rate.tensor:
                    continue
                if float(given) != rate.read():
                    rate.write(float(given))
                group["lr"] = rate.tensor

    def settings(self) -> Hashable:
        """All settings but the learning rates, for a graph's key."""
        return tuple(
            tuple(value for name, value in group.items() if name not in ("params", "lr"))
            for optimizer in self._optimizers
            for group in optimizer.param_groups
        )

    def plain(self, index: int, saved: dict[str, Any]) -> dict[str, Any]:
        """The state of an optimiser as a trainer without graphs would save it.

        Args:
            index: of the optimiser.
            saved: its ``state_dict``.
        """
        groups = [
            {**group, "lr": rate.read(), "capturable": own}
            for group, rate, own in zip(
                saved["param_groups"], self._rates[index], self._own[index], strict=True
            )
        ]
        on_device = any(group["capturable"] or group.get("fused") for group in groups)
        state = saved["state"]
        if not on_device:
            state = {
                key: {name: x.cpu() if name == "step" else x for name, x in of_one.items()}
                for key, of_one in state.items()
            }
        return {"state": state, "param_groups": groups}
