r"""The trainer: TBPTT, and DNI with a boundary. It owns every gradient; only it calls backward.

Shapes: T steps, B rows, K features of context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from seqdni.boundary import Boundary, backward_from
from seqdni.chunk import (
    Chunk,
    ChunkLike,
    as_chunk,
    check_ahead,
    check_shapes,
    lockstep_end,
    nobody,
    rows_of,
    run_chunk,
)
from seqdni.core import Core, TraceableCore
from seqdni.guard import NonFinite
from seqdni.learner import (
    GO_ON,
    check_count,
    check_non_finite,
    check_optimizer,
    check_settings,
    check_synth_optimizer,
    learns,
    teach,
    update,
)
from seqdni.look_ahead import ahead_grad
from seqdni.losses import IGNORE, cross_entropy
from seqdni.meter import Meter
from seqdni.past import Past
from seqdni.state import State, cut, detach, leaves, map_state, reset_rows, state_size
from seqdni.synthesizer import check_state_size
from seqdni.targets import boundary_pairs, dense_pairs

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fall evenly and never in step


@runtime_checkable
class Model(Core, Protocol):
    """A core with parameters: any ``nn.Module`` under the core contract."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Trainer:
    r"""Truncated BPTT over a stream of chunks; with a boundary, DNI; with its Aux head, DNI+Aux.

    For a chunk started from :math:`s_0`, one backward pass of

    .. math:: \frac{loss\_scale}{B} \Big( \sum_{t,b} \ell_{t,b}
              + \langle scale \cdot M(s_T), s_T \rangle \Big)

    gives the model's gradient and, at :math:`s_0`, the synthesizer's target. Full BPTT is this
    trainer without a boundary over :func:`whole_episodes`; with ``history``, overlapping chunks.

    Args:
        model: a core from inputs to what ``loss`` takes, with parameters.
        optimizer: of the model's parameters.
        boundary: bridges the chunk's end; None is plain TBPTT.
        synth_optimizer: of the boundary's parameters. A synthesizer without parameters needs none;
            one with parameters is frozen on purpose by ``boundary.requires_grad_(False)``.
        targets: what the boundary learns from: the gradient at the chunk's start, or, ``"dense"``,
            at every state inside the chunk, from the same backward pass. That needs a model that
            can tell them (``traced``, and ``can_trace`` is True).
        loss: ``(outputs, targets) -> [T, B]``, loss per step.
        loss_scale: factor on the batch mean of the summed loss: 1 / T makes it a mean over steps.
        clip: largest norm of the model's gradient; None leaves it alone.
        synth_clip: largest norm of the synthesizer's gradient, apart from the model's.
        synth_steps: regression steps a chunk: what is learned from is dealt into this many parts.
            Running scales, levels and whitening count these steps.
        lessons: share of the chunks that the synthesizer learns from, spread evenly but out of step
            with any period. Most of its cost is learning; 0.5 halves that. Forgetting counts
            lessons.
        update_every: chunks whose gradients are summed for one update of the model, or
            ``"episode"`` for all chunks of a lock-step episode. The synthesizer learns every chunk.
        warmup_chunks: chunks during which the synthesizer learns but is not listened to. It
            then learns the gradient of one chunk alone (and of known steps ahead): without a
            bootstrap nothing later arrives.
        history: chunks that are run again before each one that is scored, so that its gradient
            reaches back through them: BPTT(h; h') with h = (history + 1) T and h' = T. Time and
            memory of a chunk are (history + 1)-fold.
        autocast: compute in this type where that is safe, e.g. ``torch.bfloat16``.
        non_finite: what to do about a loss or a gradient that is not finite. ``"raise"`` stops with
            an error that names the chunk; ``"skip"`` makes no update with it, restarts the rows
            whose state is not finite, and goes on. The model never sees such a gradient. On a GPU,
            where asking would wait for the device, both drop the gradient and go on, and a loss
            that is not finite shows in ``meter``.

    Raises:
        ValueError: options that contradict each other, or do not fit the model.
        TypeError: the model does not keep the core contract.

    Example:
        >>> import torch.nn as nn
        >>> from seqdni import OneHot, SequenceModel, Synthesizer, TorchCore
        >>> model = SequenceModel(OneHot(3), TorchCore(nn.GRU(3, 8)), nn.Linear(8, 3))
        >>> boundary = Boundary(Synthesizer(state_size=8))
        >>> trainer = Trainer(
        ...     model, torch.optim.Adam(model.parameters()),
        ...     boundary=boundary, synth_optimizer=torch.optim.Adam(boundary.parameters()))
        >>> tokens = torch.randint(3, (4 + 1, 2))
        >>> trainer.step((tokens[:-1], tokens[1:], None, None))
        >>> trainer.updates, sorted(trainer.meter.read())
        (1, ['nats', 'scored'])
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer,
        *,
        boundary: Boundary | None = None,
        synth_optimizer: torch.optim.Optimizer | None = None,
        targets: Literal["boundary", "dense"] = "boundary",
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        loss_scale: float = 1.0,
        clip: float | None = None,
        synth_clip: float | None = None,
        synth_steps: int = 1,
        lessons: float = 1.0,
        update_every: int | Literal["episode"] = 1,
        warmup_chunks: int = 0,
        history: int = 0,
        autocast: torch.dtype | None = None,
        non_finite: NonFinite = "raise",
    ):
        if boundary is None and (synth_optimizer is not None or warmup_chunks):
            raise ValueError("synth_optimizer and warmup_chunks need a boundary")
        if targets != "boundary":
            _check_dense(targets, boundary, model)
        if synth_clip is not None and synth_optimizer is None:
            raise ValueError("synth_clip needs a synth_optimizer")
        check_count("synth_steps", synth_steps, least=1)
        if synth_steps > 1 and synth_optimizer is None:
            raise ValueError(f"synth_steps is {synth_steps}, expected 1 without a synth_optimizer")
        if lessons != 1 and (boundary is None or boundary.synthesizer is None):
            raise ValueError("lessons needs a boundary with a synthesizer")
        if not 0 < lessons <= 1:
            raise ValueError(f"lessons is {lessons}, expected a share 0 < lessons <= 1")
        if synth_steps > 1 and boundary is not None and (boundary.aux or _context_size(boundary)):
            raise ValueError("synth_steps > 1 does not go with an Aux head or a context")
        if update_every != "episode":
            check_count("update_every", update_every, 1, "'episode' or ")
        check_count("history", history, least=0)
        if history and boundary is not None:
            raise ValueError("history is for plain TBPTT; give either a boundary or a history")
        check_settings(loss_scale, clip, synth_clip, warmup_chunks)
        check_non_finite(non_finite)
        _check_model(model)
        check_optimizer("optimizer", optimizer, "model", model, loss)
        if boundary is not None:
            check_synth_optimizer([boundary], synth_optimizer)
            check_state_size(boundary.synthesizer, state_size(model.initial_state(1)))
        self.device = next(model.parameters()).device
        _check_autocast(autocast)
        self.model = model
        self.optimizer = optimizer
        self.boundary = boundary
        self.synth_optimizer = synth_optimizer
        self.targets: Literal["boundary", "dense"] = targets
        self.loss = loss
        self.loss_scale = loss_scale
        self.clip = clip
        self.synth_clip = synth_clip
        self.synth_steps = synth_steps
        self.lessons = lessons
        self.update_every: int | Literal["episode"] = update_every
        self.warmup_chunks = warmup_chunks
        self.autocast = autocast
        self.non_finite: NonFinite = non_finite
        self.carry: State | None = None
        self.updates = 0
        self.chunks = 0
        self.tokens = 0
        self.meter = Meter(self.device)
        self.past = Past(history)
        self._window = 0  # chunks since the last update
        self._window_has_gradient = False

    def step(
        self,
        chunk: ChunkLike,
        context: tuple[Tensor, Tensor] | None = None,
        ahead: ChunkLike | None = None,
    ) -> None:
        """Train on one chunk: forward, one backward pass, synthesizer, and an update if it is due.

        An update window without a scored step and without a bootstrap has no gradient, and is
        passed over without an update (an optimiser with momentum would coast on nothing).

        Args:
            chunk: a :class:`seqdni.Chunk`, or a tuple of its first two to four fields. Row b
                continues row b of the chunk before.
            context: ``[B, K]`` each, what the synthesizer may see at the chunk's start and at its
                end, if it was built with ``context_size``.
            ahead: the steps after the chunk as far as they are known, any number of them. The
                gradient from these is then exact (see :func:`seqdni.look_ahead`), and the
                synthesizer is asked for what lies beyond.

        Raises:
            ValueError: shapes that do not fit, ``update_every="episode"`` on a stream without
                lock-step episodes, or ``ahead`` without a boundary to carry its gradient over.
            FloatingPointError: the loss or the gradient is not finite (see ``non_finite``).
        """
        chunk = as_chunk(chunk)
        inputs, targets, mask, should_reset = chunk
        steps, rows = check_shapes(chunk, self.carry)
        if ahead is not None:
            check_ahead(ahead := as_chunk(ahead), rows)
            if self.boundary is None:
                raise ValueError("ahead needs a boundary; without a synthesizer: Boundary(None)")
            if context is not None:
                raise ValueError("give the synthesizer a context or look ahead, not both")
        scored = steps * rows if mask is None else int(mask.sum())
        restarts = rows_of(should_reset)
        episode_over = self.update_every == "episode" and lockstep_end(restarts.ended)
        at_start, at_end = map(self._here, context or (None, None))
        boundary, carried = self.boundary, self.carry is not None
        listens = self.chunks >= self.warmup_chunks
        heard = boundary is not None and (listens or ahead is not None)
        bootstraps = heard and not nobody(restarts.continues)
        factor = self.loss_scale / rows

        now = (self.carry, inputs, should_reset)
        before, inputs_run, resets_run = self.past.extend(*now) if scored else now
        teaches = learns(boundary, self.synth_optimizer) and self.chunks * GOLDEN % 1 < self.lessons
        if before is None:
            start = self.model.initial_state(rows)
        else:
            start = cut(before) if teaches else before
        with torch.set_grad_enabled(bool(scored or bootstraps)):
            run = Chunk(inputs_run, targets, mask, resets_run)
            traced = teaches and self.targets == "dense"
            nats, end, trace = run_chunk(self.model, run, start, self.loss, self.autocast, traced)
        if not self._finite(nats):
            self._pass_over(now, end, steps * rows, episode_over)
            return
        predicted_BS = None
        if boundary is not None and ((boundary.aux and teaches) or (bootstraps and ahead is None)):
            predicted_BS = boundary.predict(end, at_end)
        if boundary is not None and bootstraps:
            continues_B = self._here(restarts.continues)
            if ahead is not None:
                known = (ahead, detach(end), continues_B, self.loss, self.autocast, listens)
                grad_BS = ahead_grad(boundary, self.model, *known)
            else:
                assert predicted_BS is not None
                grad_BS = boundary.consumed(predicted_BS, continues_B)
            backward_from(nats * factor, end, grad_BS * factor)
        elif scored:
            (nats * factor).backward()
        self._window_has_gradient |= bool(scored or bootstraps)
        if boundary is not None and teaches and (carried or trace is not None):
            if trace is not None:
                pairs = dense_pairs(trace, should_reset, carried, bootstraps)
            else:
                pairs = boundary_pairs(start, restarts, carried, bootstraps)
            for part in pairs.dealt(self.synth_steps):
                synth_loss = boundary.regression(
                    *map(self._here, part),
                    loss_scale=factor,
                    context_BK=at_start,
                    next_predicted_BS=predicted_BS if boundary.aux else None,
                    next_valid_B=self._here(restarts.spans) if boundary.aux else None,
                )
                teach(boundary, synth_loss, self.synth_optimizer, self.synth_clip)
                self.meter.add(synth_loss=synth_loss, synth_steps=1)

        self.past.keep(*now)
        self.carry = detach(end)
        self.meter.add(nats=nats, scored=_counted(targets, mask, scored))
        self._count(steps * rows, episode_over)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Returns:
            Tensors and primitives only: it survives ``torch.load(weights_only=True)``.
        """
        parts = (self.boundary, self.synth_optimizer)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "boundary": parts[0].state_dict() if parts[0] is not None else None,
            "synth_optimizer": parts[1].state_dict() if parts[1] is not None else None,
            "carry": None if self.carry is None else leaves(self.carry),
            "past": self.past.state_dict(),
            "grads": [p.grad for p in self.model.parameters()] if self._window else None,
            "counts": [self.updates, self.chunks, self.tokens, self._window],
            "window_has_gradient": self._window_has_gradient,
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if never stopped.

        Args:
            saved: from :meth:`state_dict` of a trainer built alike.

        Raises:
            ValueError: one of the two has a boundary (or learns it) and the other does not, or
                it kept more chunks than the ``history`` of this one.
        """
        for name in ("boundary", "synth_optimizer"):
            if (getattr(self, name) is None) != (saved[name] is None):
                raise ValueError(f"the saved trainer and this one differ: one has no {name}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.boundary is not None:
            self.boundary.load_state_dict(saved["boundary"])
        if self.synth_optimizer is not None:
            self.synth_optimizer.load_state_dict(saved["synth_optimizer"])
        self.carry = self._restored(saved["carry"])
        self.past.load_state_dict(saved.get("past", []), self._restored)
        parameters = list(self.model.parameters())
        grads = saved["grads"] or [None] * len(parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = None if grad is None else grad.to(self.device)
        self.updates, self.chunks, self.tokens, self._window = saved["counts"]
        self._window_has_gradient = saved["window_has_gradient"]
        self.meter.load_state_dict(saved["meter"])

    def _restored(self, saved: list[Tensor] | None) -> State | None:
        if saved is None:
            return None
        parts = iter(saved)
        like = self.model.initial_state(saved[0].shape[-2])
        return map_state(lambda _: next(parts).to(self.device), like)

    def _count(self, tokens: int, episode_over: bool) -> None:
        """A chunk is done: count it, and update if that is due."""
        self.chunks += 1
        self.tokens += tokens
        self._window += 1
        if episode_over or self._window == self.update_every:
            self._update()

    def _update(self) -> None:
        first, self._window = self.chunks - self._window, 0
        if not self._window_has_gradient:
            return
        self._window_has_gradient = False
        last = self.chunks - 1
        where = f"chunk {last}" if first == last else f"chunks {first} to {last}"
        parameters = list(self.model.parameters())
        self.updates += update(parameters, self.optimizer, self.clip, self.non_finite, where)

    def _finite(self, nats: Tensor) -> bool:
        """Whether a chunk's loss is finite; on a GPU nobody asks."""
        if self.device.type != "cpu" or math.isfinite(nats.item()):
            return True
        if self.non_finite == "raise":
            raise FloatingPointError(
                f"the loss of chunk {self.chunks} is {nats.item()}, which is not finite; {GO_ON}"
            )
        return False

    def _pass_over(
        self,
        now: tuple[State | None, Tensor, Tensor | None],
        end: State,
        tokens: int,
        episode_over: bool,
    ) -> None:
        """Go on after a chunk whose loss is not finite: it adds no gradient and no loss."""
        self.past.keep(*now)
        initial = self.model.initial_state(now[1].shape[1])
        broken_B = ~torch.stack([_finite_rows(leaf) for leaf in leaves(end)]).all(0)
        self.carry = reset_rows(detach(end), broken_B, detach(initial))
        self.meter.add(skipped=1)
        self._count(tokens, episode_over)

    def _here(self, x: Tensor | None) -> Any:
        return None if x is None else x.to(self.device, non_blocking=True)


def _context_size(boundary: Boundary) -> int:
    return 0 if boundary.synthesizer is None else boundary.synthesizer.context_size


def _counted(targets: Tensor, mask: Tensor | None, scored: int) -> int | Tensor:
    """Steps that count in the mean; targets of -100 on a GPU are counted there."""
    if targets.device.type == "cpu" or targets.is_floating_point() or targets.dim() != 2:
        return scored
    counts = targets != IGNORE
    return (counts if mask is None else counts & mask.to(counts.device, non_blocking=True)).sum()


def _finite_rows(leaf: Tensor) -> Tensor:
    return leaf.isfinite().movedim(-2, 0).flatten(1).all(1)


# What is refused


def _check_model(model: Model) -> None:
    """The model keeps the core contract, and its state has its rows where they belong."""
    if not hasattr(model, "initial_state"):
        wrapped = getattr(model, "module", None)
        name = type(model).__name__
        raise TypeError(
            f"{name} has no initial_state(batch_size)"
            + (
                f"; it wraps a {type(wrapped).__name__}: give the trainer that one, {name}.module"
                if wrapped is not None
                else ", expected a core: model(x, state) -> (outputs, state) and "
                "initial_state(batch_size); seqdni.SequenceModel and seqdni.TorchCore make one"
            )
        )
    rows = 3
    shapes = [tuple(leaf.shape) for leaf in leaves(model.initial_state(rows))]
    if any(len(shape) not in (2, 3) or shape[-2] != rows for shape in shapes):
        raise ValueError(
            f"initial_state({rows}) gives the shapes {shapes}, expected [L, {rows}, H] or "
            f"[{rows}, H]: the rows are the second to last axis of a state"
        )


def _check_autocast(autocast: torch.dtype | None) -> None:
    if autocast == torch.float16:
        raise ValueError(
            "autocast is torch.float16, whose gradients underflow without a gradient scaler, and "
            "this trainer has none; use torch.bfloat16, or torch.amp.GradScaler in a loop of your "
            "own (see the page on mixed precision and accumulation)"
        )
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"autocast is {autocast}, expected torch.bfloat16 or None")


def _check_dense(targets: str, boundary: Boundary | None, model: object) -> None:
    if targets != "dense":
        raise ValueError(f"targets is {targets!r}, expected 'boundary' or 'dense'")
    if boundary is None or boundary.synthesizer is None:
        raise ValueError(
            "targets='dense' needs a boundary with a synthesizer, which learns from them"
        )
    if boundary.aux:
        raise ValueError(
            "targets='dense' does not go with an Aux head: its target is a chunk ahead, which only "
            "the chunk's start has; build the synthesizer with aux=False, or use 'boundary'"
        )
    if size := _context_size(boundary):
        raise ValueError(
            "targets='dense' does not go with a context, which is given for the chunk's start and "
            f"end alone; the synthesizer has context_size={size}: "
            "build it with context_size=0, or use targets='boundary'"
        )
    if not (isinstance(model, TraceableCore) and model.can_trace):
        raise ValueError(
            f"targets='dense' needs a model that tells the gradient of every state, and this "
            f"{type(model).__name__} cannot (an LSTM or a GRU without dropout can); "
            "use targets='boundary'"
        )
