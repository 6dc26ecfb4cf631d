r"""A model of several recurrent cores that tick at different rates, connected in both directions.

Shapes: T ticks of a level, m ticks of the level above in them, B rows, F features of a core, C
features of a context. Level 0 is the lowest and ticks at every step of the stream.

Source: Jaderberg et al., arXiv 1608.05343, section 3.2 (multi-network systems).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from seqdni.hierarchy.clock import Above, clock_above
from seqdni.hierarchy.level import Level
from seqdni.state import State, detach, in_full_precision


class LevelCarry(NamedTuple):
    """All that a level needs to continue the stream.

    Args:
        state: of its core.
        context_BC: the context that it last gave to the level below; None if it gives none.
        ticks: its number of ticks so far.
        since_B: rows that restarted since the last tick of the level above; on the CPU.
    """

    state: State
    context_BC: Tensor | None
    ticks: int
    since_B: Tensor

    def detached(self) -> LevelCarry:
        """The same values without a graph."""
        context_BC = None if self.context_BC is None else self.context_BC.detach()
        return self._replace(state=detach(self.state), context_BC=context_BC)


class Piece(NamedTuple):
    """Consecutive ticks of a level during which the context from above does not change.

    Args:
        features_TBF: what the core outputs.
        context_TBC: the context from the level above; None if it gives none.
        above: when the level above ticks; None at the top.
        carry: of the level, after the piece.
    """

    features_TBF: Tensor
    context_TBC: Tensor | None
    above: Above | None
    carry: LevelCarry


class Hierarchy(nn.Module):
    r"""A model of levels, each of which reads the messages of the level below.

    Level k + 1 ticks once after every ``period`` ticks of level k, on the message that level k
    sends then. A row that restarts does so at every level: at the lowest level at once, and at the
    others with their next tick.

    Args:
        levels: from the lowest, which has period 1, to the slowest.
        example: inputs as the lowest level takes them, ``[T, B, ...]``. One step of one row is run
            through all levels to see that they fit.

    Raises:
        ValueError: a level does not accept what its neighbours send, the lowest level's period is
            not 1, no level has a readout, or the top level has neither a readout nor a context.

    Example:
        >>> from seqdni import TorchCore
        >>> fast = Level(TorchCore(nn.LSTM(2, 8)), readout=nn.Linear(8, 3))
        >>> slow = Level(TorchCore(nn.LSTM(8, 8)), readout=nn.Linear(8, 5), period=4)
        >>> model = Hierarchy([fast, slow], example=torch.zeros(1, 1, 2))
        >>> outputs, carry = model(torch.zeros(12, 6, 2))
        >>> [y.shape for y in outputs]
        [torch.Size([12, 6, 3]), torch.Size([3, 6, 5])]
    """

    def __init__(self, levels: Sequence[Level], example: Tensor):
        super().__init__()
        if not levels:
            raise ValueError("a hierarchy has at least one level")
        if levels[0].period != 1:
            raise ValueError(
                f"the lowest level has period {levels[0].period}, expected 1: it ticks every step"
            )
        if all(level.readout is None for level in levels):
            raise ValueError("no level has a readout, so there is nothing to learn; give one")
        top = levels[-1]
        if top.readout is None and not top.context_size:
            raise ValueError(
                "the top level has neither a readout (for a loss) nor a context for the level "
                "below: nothing depends on it; give it one of the two, or leave it out"
            )
        if levels[0].context_size:
            raise ValueError("the lowest level has a context, and there is no level below it")
        self.levels = cast(Sequence[Level], nn.ModuleList(levels))
        self.message_sizes = self._probe(example)

    @property
    def periods(self) -> list[int]:
        """Steps of the stream per tick of each level.

        Example:
            >>> from seqdni import TorchCore
            >>> def level(n):
            ...     return Level(TorchCore(nn.GRU(1, 1)), readout=nn.Linear(1, 1), period=n)
            >>> Hierarchy([level(1), level(4), level(2)], torch.zeros(1, 1, 1)).periods
            [1, 4, 8]
        """
        found = [1]
        for level in self.levels[1:]:
            found.append(found[-1] * level.period)
        return found

    def initial_carry(self, batch_size: int) -> list[LevelCarry]:
        """The carry at the beginning of a stream.

        Args:
            batch_size: B.

        Returns:
            One for each level. The states are initial states, and the contexts are zeros.
        """
        nobody_B = torch.zeros(batch_size, dtype=torch.bool)
        like = next(self.parameters())
        return [
            LevelCarry(
                level.initial_state(batch_size),
                like.new_zeros(batch_size, level.context_size) if level.context_size else None,
                0,
                nobody_B,
            )
            for level in self.levels
        ]

    def forward(
        self,
        inputs: Tensor,
        carry: Sequence[LevelCarry] | None = None,
        should_reset: Bool[Tensor, "Tplus1 B"] | None = None,
    ) -> tuple[list[Tensor | None], list[LevelCarry]]:
        """Run all levels, connected, as one graph: for evaluation, or to train them as one model.

        Args:
            inputs: of the lowest level, ``[T, B, ...]``, any number of steps.
            carry: from the call before; None begins a stream.
            should_reset: ``[T + 1, B]`` on the CPU; None: no row restarts.

        Returns:
            For each level its readouts ``[ticks, B, ...]``, None where it has no readout or did not
            tick; and the carry for the next call.
        """
        steps, rows = inputs.shape[:2]
        if should_reset is None:
            should_reset = torch.zeros(steps + 1, rows, dtype=torch.bool)
        carries = list(self.initial_carry(rows) if carry is None else carry)
        found = self.run(0, inputs, should_reset, carries)
        outputs = [
            level.readout(torch.cat(y) if len(y) > 1 else y[0]) if level.readout and y else None
            for level, y in zip(self.levels, found, strict=True)
        ]
        return outputs, carries

    def run(
        self,
        k: int,
        x: Tensor,
        should_reset: Bool[Tensor, "Tplus1 B"],
        carry: list[LevelCarry],
    ) -> list[list[Tensor]]:
        """Run a level, and the levels above it when they tick.

        Args:
            k: the number of the level.
            x: its inputs or the messages that it reads, ``[T, B, ...]``.
            should_reset: ``[T + 1, B]`` of that level, on the CPU.
            carry: of all levels. The list is changed: it ends with the carries after these ticks.

        Returns:
            For each level the features of its ticks, as a list of pieces ``[t, B, F]``.
        """
        found: list[list[Tensor]] = [[] for _ in self.levels]
        above = self.levels[k + 1] if k + 1 < len(self.levels) else None
        given = lambda: carry[k + 1].context_BC if above else None  # noqa: E731
        for piece in run_pieces(self.levels[k], above, x, should_reset, carry[k], given):
            carry[k] = piece.carry
            found[k].append(piece.features_TBF)
            if piece.above and piece.above.sent:
                messages = self.levels[k].message(piece.features_TBF[piece.above.sent])
                more = self.run(k + 1, messages, piece.above.should_reset, carry)
                for features, later in zip(found, more, strict=True):
                    features += later
        return found

    @torch.no_grad()
    def _probe(self, example: Tensor) -> list[int]:
        """Run one tick of one row through every level, and return the widths of the messages."""
        x, what, sizes = example[:1, :1], f"inputs {list(example.shape)}", []
        if not x.numel():
            raise ValueError(f"example is {list(example.shape)}, expected at least a step of a row")
        for k, level in enumerate(self.levels):
            above = self.levels[k + 1].context_size if k + 1 < len(self.levels) else 0
            context = next(self.parameters()).new_zeros(1, 1, above) if above else None
            needed = f"level {k} must take {what} and a context of {above}"
            try:
                y, _ = level.features(x, level.initial_state(1), None, context)
                if level.readout is not None:
                    level.readout(y)
                if level.context_size and (got := level.context(y).shape[-1]) != level.context_size:
                    raise ValueError(
                        f"level {k} gives a context of {got}, its context_size is "
                        f"{level.context_size}; make them the same"
                    )
                x = level.message(y)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"{needed}; make its sizes fit: {reason}") from None
            sizes.append(x.shape[-1])
            what = f"messages of {sizes[-1]} features"
        return sizes


def run_pieces(
    level: Level,
    above: Level | None,
    x: Tensor,
    should_reset: Tensor,
    carry: LevelCarry,
    context: Callable[[], Tensor | None],
) -> Iterator[Piece]:
    """Run some ticks of a level in pieces, which end where the context from above may change.

    Args:
        level: the level.
        above: the level above it; None at the top.
        x: its inputs or messages, ``[T, B, ...]``.
        should_reset: ``[T + 1, B]``.
        carry: of the level, before these ticks.
        context: returns the present context of the level above; called before each piece.

    Yields:
        The pieces; one only where the level above gives no context.
    """
    first, steps = 0, len(x)
    while first < steps:
        last, clock, context_TBC = steps, None, None
        if above is not None:
            if above.context_size:
                last = min(steps, first + above.period - carry.ticks % above.period)
            clock = clock_above(
                carry.ticks, above.period, should_reset[first : last + 1], carry.since_B
            )
            if (context_BC := context()) is not None:
                context_TBC = only_of_this_episode(
                    context_BC.expand(last - first, -1, -1), clock.restarted_TB
                )
        y, state = level.features(
            x[first:last], carry.state, should_reset[first : last + 1], context_TBC
        )
        given_BC = in_full_precision(level.context(y[-1])) if level.context_size else None
        since_B = carry.since_B if clock is None else clock.since_B
        carry = LevelCarry(state, given_BC, carry.ticks + last - first, since_B)
        yield Piece(y, context_TBC, clock, carry)
        first = last


def only_of_this_episode(context_TBC: Tensor, restarted_TB: Tensor) -> Tensor:
    """Set a context to 0 in the rows that have restarted since it was given.

    Args:
        context_TBC: the context at each tick.
        restarted_TB: the rows that have restarted, at each tick; on the CPU.

    Returns:
        ``[T, B, C]``.
    """
    if not bool(restarted_TB.any()):
        return context_TBC
    return context_TBC.masked_fill(restarted_TB[..., None].to(context_TBC.device), 0.0)
