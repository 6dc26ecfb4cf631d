"""CUDA graphs: the device's work in a function, recorded once and repeated without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


class CudaGraphs:
    """Runs functions on a device, or records them as graphs that share their memory.

    Args:
        device: a CUDA device.

    Raises:
        ValueError: it is another device.
    """

    def __init__(self, device: torch.device):
        if device.type != "cuda":
            raise ValueError(
                f"capture=True needs a model on a CUDA device, and this one is on {device}; move "
                "it there with model.cuda() before its optimizer is built, or leave out capture"
            )
        self._device = device
        self._side = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, compute: Callable[[], Result]) -> Result:
        """Run a function that will be recorded later, on a stream of its own, as torch asks for.

        Args:
            compute: the function.

        Returns:
            What it returns.
        """
        with torch.cuda.device(self._device):
            now = torch.cuda.current_stream()
            self._side.wait_stream(now)
            with torch.cuda.stream(self._side):
                result = compute()
            now.wait_stream(self._side)
        return result

    def record(self, compute: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record a function. Its Python runs once; the device does nothing yet.

        Args:
            compute: the function. All tensors that it reads and that live on are read again, at the
                same places, by each repetition.

        Returns:
            A function that lets the device compute it, and what it returned. Each repetition writes
            the tensors of this result again.

        Raises:
            RuntimeError: something in it cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool):
            result = compute()
        return graph.replay, result
