r"""Trains a feed-forward net whose stages do not wait for the stages after them.

A *stage* is a part of the net with parameters: a layer, or several. The graph is *cut* between two
stages: the next stage starts from a copy of the activation without a graph. A boundary at each cut
predicts the gradient there, so that a stage is updated as soon as its output exists.

Shapes: B rows, S features of an activation, K features of a condition.

Source: Jaderberg et al., arXiv 1608.05343, sections 2.2 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from seqdni.boundary import Boundary
from seqdni.checkpoint import check_format, load_optimizer, new_checkpoint
from seqdni.feedforward.checks import (
    check_batch,
    check_condition,
    check_credit,
    check_inputs,
    check_order,
    check_stages,
    check_widths,
)
from seqdni.feedforward.stage import Stage
from seqdni.feedforward.synthetic_input import SyntheticInput
from seqdni.guard import NonFinite
from seqdni.learner import Learner, check_optimizer, descend
from seqdni.metrics import RunningSums
from seqdni.synthetic_gradients import SyntheticGradients

MakeOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser for the parameters that it is given."""

Order: TypeAlias = Literal["forward", "reverse", "random"]
"""In which order the stages of a net are updated at each step."""


class LayerTrainer:
    r"""Trains the stages of a net, each by an update of its own, with synthetic gradients between.

    Stage k computes :math:`h_{k+1} = f_k(h_k)` from a copy of :math:`h_k` without a graph. The last
    stage learns from the loss. Every other stage learns from

    .. math:: \frac{1}{B} \sum_b \langle \hat g_{k+1}(h_{k+1}), h_{k+1} \rangle

    where :math:`\hat g` is a constant that the boundary predicts. The gradient that arrives at
    :math:`h_k` in this backward pass is the target of the boundary before the stage. No stage needs
    another one to be updated first, so the stages may learn in any order, and not all at each step.

    Afterwards the net is used as it is: synthesizers are for training only.

    Args:
        net: an ``nn.Sequential``, or a list of stages. A stage is any module from one tensor
            ``[B, ...]`` to another, with parameters of its own.
        credit: one for each cut, so one less than there are stages: a :class:`seqdni.Boundary`, or
            :class:`seqdni.SyntheticGradients` for an optimiser and a clip of its own. The
            parameters of a boundary alone are trained by ``optimizer``. The stage before a
            ``Boundary(None)`` is not trained.
        optimizer: makes the optimiser of a stage from its parameters.
        loss: ``(outputs, targets) ->`` the mean over the rows, as ``torch.nn.functional`` has them.
        order: in which the stages are updated at each step. ``"forward"``: from the first to the
            last, each as soon as its output exists. ``"reverse"``: the last one first, so that a
            boundary has learned from this batch before it predicts. ``"random"``: drawn anew.
        update_probability: each stage is updated with this probability at each step.
        inputs: for *complete unlock*: one :class:`SyntheticInput` for each cut, which predicts the
            input of the stage after it; None: a stage computes with its true input.
        clip: largest norm of the gradient of a stage, and of a synthetic input; None: no limit.
        autocast: compute the stages in this type where that is safe, e.g. ``torch.bfloat16``.
        non_finite: what to do about a loss or a gradient that is not finite, as in
            :class:`seqdni.Learner`.
        seed: of the order and of the draws of ``update_probability``.

    Raises:
        ValueError: a stage has no parameters or shares them, the numbers of stages and cuts do not
            fit, or a setting is out of range.

    Example:
        >>> from seqdni import LeastSquares
        >>> net = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3))
        >>> boundary = Boundary(LeastSquares(8, condition_size=3))
        >>> adam = lambda parameters: torch.optim.Adam(parameters, 1e-3)
        >>> trainer = LayerTrainer(net, [boundary], adam, nn.functional.cross_entropy)
        >>> x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
        >>> trainer.step(x, y, condition=nn.functional.one_hot(y, 3).float())
        >>> trainer.updates_of_stages
        [1, 1]
    """

    def __init__(
        self,
        net: nn.Sequential | Sequence[nn.Module],
        credit: Sequence[Boundary | SyntheticGradients],
        optimizer: MakeOptimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        order: Order = "forward",
        update_probability: float = 1.0,
        inputs: Sequence[SyntheticInput] | None = None,
        clip: float | None = None,
        autocast: torch.dtype | None = None,
        non_finite: NonFinite = "raise",
        seed: int = 0,
    ):
        modules = list(net)
        check_stages(modules)
        check_credit(credit, len(modules))
        check_inputs(inputs, len(modules))
        check_order(order, update_probability)
        whole = net if isinstance(net, nn.Sequential) else nn.Sequential(*net)
        self.model = modules[0] if len(modules) == 1 else whole
        self.device = next(self.model.parameters()).device
        self.meter = RunningSums(self.device)
        self.credit = [_taught(each, optimizer) for each in credit]
        self.stages: list[Stage] = []
        for index, (module, synthetic) in enumerate(
            zip(modules, [*self.credit, None], strict=True)
        ):
            learner = Learner(
                optimizer(module.parameters()),
                loss,
                clip=clip,
                autocast=autocast,
                non_finite=non_finite,
            )
            check_optimizer("optimizer", learner.optimizer, f"stage {index}", module)
            before_last = index == len(credit) - 1
            self.stages.append(Stage(index, module, learner, synthetic, before_last, self.meter))
        self.inputs = None if inputs is None else list(inputs)
        self.input_optimizers = [_optimizer_of(each, optimizer) for each in self.inputs or []]
        synthesizers = [*(each.boundary for each in self.credit), *(self.inputs or [])]
        self.boundary = nn.ModuleList(synthesizers)  # all that is for training only
        self.order: Order = order
        self.update_probability = update_probability
        self.clip = clip
        self.steps = 0
        self.tokens = 0  # rows that were trained on
        self._generator = torch.Generator().manual_seed(seed)
        self._share_gradient_scale()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of the stages, then those of the boundaries and of the synthetic inputs."""
        every = [
            *(stage.learner.optimizer for stage in self.stages),
            *(synthetic.optimizer for synthetic in self.credit),
            *self.input_optimizers,
        ]
        return [each for each in every if each is not None]

    @property
    def updates(self) -> int:
        """Updates of the last stage."""
        return self.stages[-1].updates

    @property
    def updates_of_stages(self) -> list[int]:
        """Updates of each stage."""
        return [stage.updates for stage in self.stages]

    def step(self, inputs: Tensor, targets: Tensor, condition: Tensor | None = None) -> None:
        """Train on one batch.

        Args:
            inputs: of the net, ``[B, ...]``.
            targets: for the loss, ``[B, ...]``.
            condition: ``[B, K]``, what the synthesizers read besides an activation, if they were
                built with ``condition_size``: for example the labels, one-hot.

        Raises:
            ValueError: shapes do not fit, a condition is missing, or batch norm has one row.
            FloatingPointError: the loss or a gradient is not finite (see ``non_finite``).
        """
        x, y, told = self.checked(inputs, targets, condition)
        drawn, order = self.draw()
        starts: list[Tensor] = [x]
        ends: list[Tensor] = []
        for index in order:
            while len(ends) <= index:  # only as far as this stage needs it
                self._run_next(x, starts, ends, drawn)
            stage = self.stages[index]
            if drawn[index] and stage.backward(self.steps, ends[index], y, told):
                if index:
                    start = starts[index]
                    self.stages[index - 1].teach(self.steps, start, start.grad, told)
                stage.update(self.steps)
        for index in range(len(self.inputs or [])):
            self.teach_input(index, x, ends[index].detach())
        self.steps += 1
        self.tokens += len(x)

    def checked(
        self, inputs: Tensor, targets: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Refuse a batch that does not fit, and copy it to the device.

        Args:
            inputs: as in :meth:`step`.
            targets: as in :meth:`step`.
            condition: as in :meth:`step`.

        Returns:
            The three, on the device.

        Raises:
            ValueError: shapes do not fit, a condition is missing, or batch norm has one row.
        """
        check_batch(inputs, targets, condition, [self.model, self.boundary])
        check_condition(condition, self.credit)
        x, y, told = (
            None if each is None else each.to(self.device, non_blocking=True)
            for each in (inputs, targets, condition)
        )
        assert x is not None
        assert y is not None
        if self.steps == 0:
            modules = [stage.module for stage in self.stages]
            check_widths(modules, x, self.credit, self.inputs)
        return x, y, told

    def draw(self) -> tuple[list[bool], list[int]]:
        """Draw which stages are updated at a step, and in which order."""
        count, generator = len(self.stages), self._generator
        drawn = (torch.rand(count, generator=generator) < self.update_probability).tolist()
        order = torch.randperm(count, generator=generator).tolist()
        if self.order != "random":
            order = list(range(count)) if self.order == "forward" else list(reversed(range(count)))
        return drawn, order

    def _run_next(
        self, x: Tensor, starts: list[Tensor], ends: list[Tensor], drawn: Sequence[bool]
    ) -> None:
        """Run the next stage forward, and cut the graph after it."""
        index = len(ends)
        ends.append(self.stages[index].forward(starts[index], drawn[index]))
        if index < len(self.credit):
            arriving = ends[-1] if self.inputs is None else self.inputs[index].predict(x)
            starts.append(arriving.detach().requires_grad_())  # a cut

    def teach_input(self, index: int, inputs: Tensor, arrived: Tensor) -> None:
        """Teach a synthetic input what really arrived.

        Args:
            index: its number.
            inputs: of the net, ``[B, ...]``.
            arrived: the output of the stage before, without a graph.
        """
        assert self.inputs is not None
        synthetic, optimizer = self.inputs[index], self.input_optimizers[index]
        loss = synthetic.loss(inputs, arrived)
        if optimizer is not None:
            loss.backward()
            descend(list(synthetic.parameters()), optimizer, self.clip)
        self.meter.add(**{f"input_loss_{index}": loss, f"input_steps_{index}": 1})

    def _share_gradient_scale(self) -> None:
        """Let the bounds of all cuts refer to one level, that of the gradient at the last cut."""
        for synthetic in self.credit:
            synthetic.boundary.gradient_scale = self.credit[-1].boundary.gradient_scale

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on.

        Returns:
            Tensors and primitives only: it survives ``torch.load(weights_only=True)``.
        """
        return new_checkpoint(
            model=self.model.state_dict(),
            optimizers=[stage.learner.optimizer.state_dict() for stage in self.stages],
            credit=[synthetic.state_dict() for synthetic in self.credit],
            inputs=[synthetic.state_dict() for synthetic in self.inputs or []],
            input_optimizers=[
                None if each is None else each.state_dict() for each in self.input_optimizers
            ],
            steps=self.steps,
            tokens=self.tokens,
            updates_of_stages=self.updates_of_stages,
            generator=self._generator.get_state(),
            meter=self.meter.state_dict(),
        )

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict` of a trainer built with the same settings.

        Raises:
            ValueError: the checkpoint has another format, or the numbers of its stages or of its
                synthetic inputs are others.
        """
        check_format(saved)
        for name, own in (("optimizers", self.stages), ("inputs", self.inputs or [])):
            if len(saved[name]) != len(own):
                raise ValueError(
                    f"the saved trainer has {len(saved[name])} {name}, expected {len(own)}"
                )
        self.model.load_state_dict(saved["model"])
        each = zip(self.stages, saved["optimizers"], saved["updates_of_stages"], strict=True)
        for stage, state, updates in each:
            load_optimizer(stage.learner.optimizer, state)
            stage.updates = updates
        for synthetic, state in zip(self.credit, saved["credit"], strict=True):
            synthetic.load_state_dict(state)
        for synthetic, state in zip(self.inputs or [], saved["inputs"], strict=True):
            synthetic.load_state_dict(state)
        for optimizer, state in zip(self.input_optimizers, saved["input_optimizers"], strict=True):
            if optimizer is not None:
                load_optimizer(optimizer, state)
        self.steps, self.tokens = saved["steps"], saved["tokens"]
        self._generator.set_state(saved["generator"])
        self.meter.load_state_dict(saved["meter"])


def _optimizer_of(module: nn.Module, make: MakeOptimizer) -> torch.optim.Optimizer | None:
    """The optimiser of the parameters that are not frozen; None where there are none."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return make(trained) if trained else None


def _taught(credit: Boundary | SyntheticGradients, make: MakeOptimizer) -> SyntheticGradients:
    """Give a boundary alone an optimiser, if its synthesizer has parameters."""
    if isinstance(credit, SyntheticGradients):
        return credit
    return SyntheticGradients(credit, _optimizer_of(credit, make))
