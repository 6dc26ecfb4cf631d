"""Running sums that stay on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningSums:
    """Sums of named quantities. Adding never waits for the device; reading waits once.

    Args:
        device: the device of the added tensors.

    Example:
        >>> meter = RunningSums("cpu")
        >>> meter.add(loss_sum=torch.tensor(3.0), scored=2)
        >>> meter.add(loss_sum=torch.tensor(1.0), scored=2)
        >>> meter.read()
        {'loss_sum': 4.0, 'scored': 4.0}
    """

    def __init__(self, device: torch.device | str):
        self._device = torch.device(device)
        self._sums: dict[str, Tensor | float] = {}

    def add(self, **values: Tensor | float | int) -> None:
        """Add to the sums.

        Args:
            values: scalars by name; tensors are detached.
        """
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.detach() if value.requires_grad else value
                so_far = self._sums.get(name)
                if not isinstance(so_far, Tensor) and self._device.type != "mps":
                    value = value.double()
            self._sums[name] = self._sums.get(name, 0.0) + value

    def has(self, name: str) -> bool:
        """Whether anything was added under a name.

        Args:
            name: of the sum.
        """
        return name in self._sums

    def read(self) -> dict[str, float]:
        """The sums so far.

        Returns:
            Floats by name, in one transfer from the device.
        """
        tensors = [value for value in self._sums.values() if isinstance(value, Tensor)]
        read = iter(torch.stack(tensors).tolist() if tensors else [])
        return {
            name: next(read) if isinstance(value, Tensor) else float(value)
            for name, value in self._sums.items()
        }

    def clear(self) -> None:
        """Set all sums to zero."""
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint.

        Returns:
            Tensors and floats by name.
        """
        return dict(self._sums)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore sums saved by :meth:`state_dict`.

        Args:
            state: the saved sums.
        """
        self._sums = {
            name: value.to(self._device) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }
