r"""Truncation at random places, reweighted so that the expected gradient is full BPTT's (ARTBP).

At each chunk boundary the graph is cut with probability p. Where it is not cut, the gradient g that
crosses the boundary is multiplied by :math:`1 / (1 - p)`, so that its mean is unchanged:
:math:`p \cdot 0 + (1 - p) \cdot g / (1 - p) = g`. :class:`RandomTruncation` cuts,
:class:`Reweighted` multiplies.

Shapes: T steps, B rows.

Source: Tallec & Ollivier, *Unbiasing Truncated Backpropagation Through Time*, arXiv 1705.08209.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdni.chunk import Chunk, ChunkLike, as_chunk, join, rows_of
from seqdni.cores.base import Core, pieces, unroll
from seqdni.state import State, map_state


class RandomTruncation:
    """A stream that joins chunks up to the next random cut: 1 / p chunks on average.

    There is always a cut where all rows end their episodes together. The stream never reads a chunk
    before it is needed, so that it can be saved after any of its graphs.

    Args:
        chunks: a stream of chunks with equally many steps. Only the last chunk before all rows end
            their episodes together may be shorter.
        cut_probability: p, the probability of a cut at a boundary. 1 is plain TBPTT.
        seed: of the random cuts.
        longest: the largest number of chunks in a graph, which is then cut in any case. These cuts
            are not reweighted, so that the gradient is no longer unbiased. None: no limit.

    Raises:
        ValueError: a number is out of range, or the chunks have unequal lengths.

    Example:
        >>> x = torch.zeros(2, 1)
        >>> graphs = RandomTruncation([(x, x, None, None)] * 8, cut_probability=0.5, seed=0)
        >>> sum(len(graph[0]) for graph in graphs)
        16
    """

    def __init__(
        self,
        chunks: Iterable[ChunkLike],
        cut_probability: float,
        seed: int,
        longest: int | None = None,
    ):
        _check(cut_probability)
        if longest is not None and longest < 1:
            raise ValueError(f"longest is {longest}, expected a count of chunks >= 1, or None")
        self.chunks = chunks
        self.cut_probability = cut_probability
        self.longest = longest
        self._source = map(as_chunk, chunks)
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        graph = [next(self._source)]
        while not self._cut_after(graph):
            following = next(self._source, None)
            if following is None:
                break
            lengths = [len(chunk[0]) for chunk in (*graph, following)]
            if lengths[-2] != lengths[0] or lengths[-1] > lengths[0]:
                raise ValueError(
                    f"chunks of {lengths} steps follow each other in "
                    "the middle of an episode; give chunks of equal length, so that the "
                    "boundaries between them are known"
                )
            graph.append(following)
        return join(graph)

    def _cut_after(self, graph: list[Chunk]) -> bool:
        ended = rows_of(graph[-1].should_reset).ended
        if ended is not None and bool(ended.all()):
            return True
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64).item()
        return drawn < self.cut_probability or len(graph) == self.longest

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the stream depends on.

        Returns:
            The generator's state, and that of ``chunks`` if it has one.
        """
        save = getattr(self.chunks, "state_dict", None)
        return {
            "generator": self._generator.get_state(),
            "chunks": None if save is None else save(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if the stream had never stopped.

        Args:
            saved: from :meth:`state_dict`.
        """
        self._generator.set_state(saved["generator"])
        if saved["chunks"] is not None:
            getattr(self.chunks, "load_state_dict")(saved["chunks"])  # noqa: B009


class Reweighted(nn.Module):
    r"""A core that multiplies the gradient by :math:`1 / (1 - p)` at each boundary it crosses.

    The boundaries lie at the multiples of ``steps``: train it on what :class:`RandomTruncation`
    makes from chunks of that many steps. The outputs are those of ``core``. It must get these
    joined chunks whole, so put a :class:`seqdni.Checkpointed` inside it and not around it.

    Args:
        core: the core, or a whole model under the core's contract.
        steps: steps of a chunk of the stream.
        cut_probability: p, the same as that of the stream.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> from seqdni import TorchCore, cut, target_grad
        >>> core = TorchCore(nn.RNN(1, 1))
        >>> bare, start, x = cut(torch.ones(1, 1, 1)), cut(torch.ones(1, 1, 1)), torch.ones(6, 1, 1)
        >>> unroll(core, x, bare)[1].backward()
        >>> unroll(Reweighted(core, steps=2, cut_probability=0.5), x, start)[1].backward()
        >>> torch.allclose(target_grad(start), 4 * target_grad(bare))
        True
    """

    def __init__(self, core: Core, steps: int, cut_probability: float):
        super().__init__()
        _check(cut_probability)
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected the steps of a chunk, >= 1")
        self.core = core
        self.steps = steps
        self.weight = 1 / (1 - cut_probability) if cut_probability < 1 else 1.0

    def initial_state(self, batch_size: int) -> State:
        """The core's initial state.

        Args:
            batch_size: B.

        Returns:
            The state that the core starts from.
        """
        return self.core.initial_state(batch_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a chunk without restarts.

        Args:
            x: inputs ``[T, B, ...]``.
            state: the state before the first step.

        Returns:
            Outputs ``[T, B, ...]`` and the state after the last step.
        """
        return self.unroll(x, state, None)

    def unroll(self, x: Tensor, state: State, should_reset: Tensor | None) -> tuple[Tensor, State]:
        """Run a chunk with its restarts; :func:`seqdni.unroll` calls this.

        Args:
            x: inputs ``[T, B, ...]``.
            state: the state before the first step.
            should_reset: ``[T + 1, B]``, or None.

        Returns:
            Outputs ``[T, B, ...]`` and the state after the last step.
        """
        if not torch.is_grad_enabled():
            return unroll(self.core, x, state, should_reset)
        outputs = []
        for piece, reset in pieces(x, should_reset, self.steps):
            state = map_state(self._with_weight, state) if outputs else state
            y, state = unroll(self.core, piece, state, reset)
            outputs.append(y)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], state

    def _with_weight(self, leaf: Tensor) -> Tensor:
        crossing = leaf.view_as(leaf)
        if crossing.requires_grad:
            crossing.register_hook(lambda grad: grad * self.weight)
        return crossing


def _check(cut_probability: float) -> None:
    if not 0 < cut_probability <= 1:
        raise ValueError(
            f"cut_probability is {cut_probability}, expected 0 < p <= 1: with 0 no graph would end "
            "before its episode (that is full BPTT: whole_episodes)"
        )
