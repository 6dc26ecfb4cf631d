"""A run in progress: the training loop, its checkpoints, and how it is stopped."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from seqdni import DataParallel, to_bits
from seqdni.checkpoint import check_format
from seqdni.recipes.checkpoint import Damaged, check_weights
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError, RunStopped, one_line
from seqdni.recipes.fit import check_fits, check_optimizer
from seqdni.recipes.known_answers import WHOLE, KnownAnswers
from seqdni.recipes.launched import launched, rank
from seqdni.recipes.option_field import LIMITS, flag
from seqdni.recipes.processes import as_first_sees, is_lost, together
from seqdni.recipes.trainers import way_of
from seqdni.shared_training import joined_sums

FIRST_LINE, EVERY_LINE = 2.0, 30.0  # seconds of training between lines, where there is no terminal
# The errors that a checkpoint with edited values can cause when it is restored or first used.
UNFIT = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)


class Session:
    """A run's trainer and data, with all that it saves to continue as if it had never stopped.

    Args:
        directory: the folder of the run.
        options: its options.
        trainer: a :class:`seqdni.Trainer`, or a :class:`seqdni.HierarchyTrainer`.
        stream: what it trains on; has ``state_dict`` and ``load_state_dict``.
        progress: numbers that the recipe keeps and saves; primitives only.
        data: what the recipe has read and does not save.
        unit: unit of the training error in the log: ``bits``, or a name for the loss itself.
        known_answers: what a critic predicts; None: the run has no critic.
        step: trains on what the stream yields; None: the method of the trainer.
        apart: whether each process of this run trains a part of the model. Each must have the whole
            of it after every step.
        deals_rows: whether the stream has only the rows of this process.
    """

    def __init__(
        self,
        directory: RunDirectory,
        options: Any,
        trainer: Any,
        stream: Any,
        progress: dict[str, Any],
        data: Any = None,
        unit: str = "bits",
        known_answers: KnownAnswers | None = None,
        step: Callable[..., None] | None = None,
        apart: bool = False,
        deals_rows: bool = False,
    ):
        self.directory = directory
        self.options = options
        self.trainer = trainer
        self.stream = stream
        self.progress = progress
        self.data = data
        self.unit = unit
        self.known_answers = known_answers
        self.apart = apart
        self.deals_rows = deals_rows
        self.processes = together()  # of this run; None: only one
        # The same where each of them has rows of its own:
        self.parallel: DataParallel | None = getattr(trainer, "parallel", None)
        self.step = trainer.step if step is None else step
        self.most_tokens: int | None = getattr(options, "max_tokens", None)  # to train on
        self.seconds = 0.0  # of training, without evaluations
        self.reported = 0.0  # work (see train) at the last row of metrics
        self._proved = True  # False after a restore until the first step has succeeded

    def train(
        self,
        chunks: Iterable[Any],
        work: Callable[[], float],
        finished: Callable[[], bool] = lambda: False,
    ) -> Iterator[dict[str, Any]]:
        """Train until a limit is reached, and yield a row of metrics every ``log_every``.

        The caller may add numbers to the row, and they are logged with it. Two entries are not
        logged: the progress bar shows ``note`` as well as the training error, and ``shown`` in its
        place. The caller may also change the stream; the next chunk is then the first changed one.
        The caller's time is not counted as training.

        Args:
            chunks: the stream, or an iterator over it.
            work: returns how much has been done, in what ``log_every`` counts: updates, episodes.
            finished: returns whether to stop before the limits; called before each chunk.

        Yields:
            A row: update, tokens, seconds, train_bits (or train_UNIT), synth_loss (1 is as good as
            a prediction of zero; with the auxiliary task the two losses are added), with an audit
            also audit_worth and audit_cosine, means over the boundaries. For a hierarchy
            also train_bits_K of each level K, if several have a loss, and message_loss_K; for a
            feed-forward net synth_loss_K and input_loss_K of each cut K.

        Raises:
            RunStopped: the user pressed Ctrl-C, or SIGTERM came; the run is saved.
            RunError: the loss is no longer finite. The last checkpoint is, and is kept.
        """
        options = self.options
        steps_known = getattr(options, "look_ahead", 0) if way_of(options).synthetic else 0
        source = iter(chunks)
        saved_at = self.seconds
        stop_after = "chunk" if getattr(options, "apart", None) is None else "section"
        if not as_first_sees((self.directory.path / "last.pt").exists()):
            self.save("last")  # so that a run that ends early can be resumed
        with _stop_requests(stop_after) as stopping, self._bar() as bar:
            clock = time.perf_counter()
            shown_at = self.seconds + FIRST_LINE - EVERY_LINE
            while self.fraction() < 1 and not finished():
                try:
                    chunk = next(source)
                    self._step(chunk, steps_known)
                except UNFIT as error:
                    if self._proved or isinstance(error, torch.OutOfMemoryError) or is_lost(error):
                        raise
                    raise self._unfit(error) from None
                self._proved = True
                due = work() - self.reported >= options.log_every
                reporting = due and self.trainer.meter.has("loss_sum")
                sums = self._sums() if reporting else {}  # waits for the device
                now = time.perf_counter()
                self.seconds += now - clock
                clock = now
                stop = self._agreed(bool(stopping))
                if reporting:
                    row = self._metrics(sums)
                    self.reported = work()
                    yield row
                    self._show(bar, row.pop("note", ""), row)
                    self.directory.log(row)
                    clock = time.perf_counter()
                if bar.disable and not rank() and self.seconds - shown_at >= EVERY_LINE:
                    self._print_line()
                    shown_at = self.seconds
                if stop or self.seconds - saved_at >= options.checkpoint_seconds:
                    self.save("last")
                    saved_at = self.seconds
                    clock = time.perf_counter()
                if stop:
                    raise RunStopped
            bar.update(bar.total - bar.n)
        self.save("last")

    def save(self, name: str) -> None:
        """Write a checkpoint, unless something in it is no longer finite.

        Several processes must call this together; the first writes.

        Args:
            name: ``last`` or ``best``.

        Raises:
            RunError: a number in it is NaN or infinite; the checkpoint before is kept.
        """
        trainer = self.trainer.state_dict()
        # One by one: parts of a state lie on different devices.
        if not all(bool(part.isfinite().all()) for part in _floats(trainer)):
            raise self._diverged("the training state")
        self.directory.save(
            name,
            {
                "recipe": self.options.recipe,
                "trainer": trainer,
                "stream": self.stream.state_dict(),
                "progress": self.progress,
                "seconds": self.seconds,
                "reported": self.reported,
                **self._random_states(),
            },
        )
        if self.processes is not None:
            self.processes.wait()

    def restore(self) -> None:
        """Continue from the last checkpoint.

        Raises:
            RunError: there is none, or it does not fit the options.
        """
        saved = self.directory.load("last")
        try:
            self._check_fits(saved)
            self.trainer.load_state_dict(saved["trainer"])
            for optimizer in self.trainer.optimizers():
                check_optimizer(optimizer)
            self.stream.load_state_dict(saved["stream"])
            self.progress.update(saved["progress"])
            self.seconds, self.reported = saved["seconds"], saved["reported"]
            self._set_random_states(saved["rng"], saved["cuda_rng"])
        except UNFIT as error:
            if is_lost(error):
                raise
            raise self._unfit(error) from None
        self._proved = False

    def _random_states(self) -> dict[str, Any]:
        """Those of torch's generators; with several processes the states of each, ``[n, ...]``."""
        on_gpu, parallel = torch.cuda.is_initialized(), self.parallel
        if parallel is None:
            states = torch.cuda.get_rng_state_all() if on_gpu else []
            return {"rng": torch.get_rng_state(), "cuda_rng": states}
        states = list(parallel.of_each(torch.cuda.get_rng_state())) if on_gpu else []
        return {"rng": parallel.of_each(torch.get_rng_state()), "cuda_rng": states}

    def _set_random_states(self, cpu: Tensor, cuda: list[Tensor]) -> None:
        """Restore them; another number of processes than before draws other numbers."""
        saved_by = len(cpu) if cpu.dim() > 1 else 1
        now = 1 if self.parallel is None else launched()
        if saved_by != now:
            torch.manual_seed(self.options.seed + self.trainer.updates + rank())
            return
        torch.set_rng_state(cpu[rank()].clone() if now > 1 else cpu)  # of a view it crashes
        if cuda and torch.cuda.is_available():
            if now > 1:
                torch.cuda.set_rng_state(cuda[rank()])
            else:
                torch.cuda.set_rng_state_all(cuda)

    def _sums(self) -> dict[str, float]:
        """What the trainer has added up, in all processes together."""
        sums = self.trainer.meter.read()
        return sums if self.parallel is None else joined_sums({}, self.parallel.of_all(sums))

    def _agreed(self, stopping: bool) -> bool:
        """Whether any process was asked to stop. All take the time of the first for their own."""
        if self.processes is None:
            return stopping
        seconds = 0.0 if self.processes.rank else self.seconds
        told = self.processes.sum({"seconds": seconds, "stopping": float(stopping)})
        self.seconds = told["seconds"]
        return told["stopping"] > 0

    def _check_fits(self, saved: dict[str, Any]) -> None:
        """Refuse a checkpoint of another kind of run, and one whose values were edited."""
        if saved.get("recipe", self.options.recipe) != self.options.recipe:
            raise Damaged(f"it is of a run of {saved['recipe']}")
        check_weights(saved["trainer"].get("model"), self.trainer.model.state_dict())
        check_format(saved["trainer"])
        check_fits(saved["trainer"], self.trainer.state_dict(), "trainer")
        check_fits(saved["stream"], self.stream.state_dict(), "stream")
        check_fits(saved["progress"], self.progress, "progress")
        check_fits(saved, {"seconds": 0.0, "reported": 0.0}, "checkpoint")
        if math.isinf(saved["seconds"]) or math.isinf(saved["reported"]):
            raise Damaged("its seconds or its work so far are infinite")

    def _unfit(self, error: Exception) -> RunError:
        where = self.directory.path / "last.pt"
        return RunError(f"{where} does not fit this run: {one_line(error)}; put back a copy of it")

    def result(self) -> dict[str, Any]:
        """The part of result.json that every recipe has.

        Returns:
            Names and numbers.
        """
        options, trainer = self.options, self.trainer
        boundary = trainer.boundary
        captured = getattr(trainer, "captured", None)
        by_graphs: dict[str, Any] = {}
        if captured is not None:
            by_graphs["captured_chunks"] = captured.replayed
            by_graphs["eager_chunks"] = dict(captured.eager)  # by the reason
        return {
            "recipe": options.recipe,
            "trainer": options.trainer,
            **({"chunk_len": options.chunk_len} if hasattr(options, "chunk_len") else {}),
            "seed": options.seed,
            "updates": trainer.updates,
            "tokens": trainer.tokens,
            "wall_seconds": round(self.seconds, 3),
            "tokens_per_second": round(trainer.tokens / self.seconds) if self.seconds else 0,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "synth_parameters": sum(p.numel() for p in boundary.parameters()) if boundary else 0,
            "device": str(trainer.device),
            "torch": torch.__version__,
            **by_graphs,
        }

    def fraction(self, updates: int = 0, tokens: int = 0) -> float:
        """How much of the run is done.

        Args:
            updates: that are assumed to be made as well.
            tokens: that are assumed to be trained on as well.

        Returns:
            0 at the start, 1 or more when the first of its limits is reached.
        """
        options = self.options
        parts = [0.0]
        if options.updates is not None:
            parts.append((self.trainer.updates + updates) / options.updates)
        if options.max_seconds is not None:
            parts.append(self.seconds / options.max_seconds)
        if self.most_tokens is not None:
            parts.append((self.trainer.tokens + tokens) / self.most_tokens)
        return max(parts)

    def limits_reached(self) -> list[str]:
        """The limits that end the run and have been reached.

        Returns:
            Options with their values, e.g. ``--updates 4000``; empty while there is more to do.
        """
        options, reached = self.options, []
        done = {"updates": self.trainer.updates, "max_seconds": self.seconds}
        done["max_tokens"] = done["epochs"] = self.trainer.tokens
        limits = {name: getattr(options, name, None) for name in LIMITS}
        for name, limit in limits.items():
            most = self.most_tokens if name == "epochs" and limit is not None else limit
            if most is not None and done[name] >= most:
                reached.append(f"{flag(name)} {limit}")
        patience = getattr(options, "patience", None)
        if patience is not None and self.progress["since_best"] >= patience:
            reached.append(f"--patience {patience}")
        return reached

    def further(self) -> str:
        """The limits that were reached, doubled, to be added to a command that trains further.

        Returns:
            Words of a command line, e.g. ``--updates 8000``.
        """
        doubled = []
        for reached in self.limits_reached():
            name, value = reached.split()
            number = float(value) if "." in value or "e" in value else int(value)
            doubled.append(f"{name} {2 * number}")
        return " ".join(doubled)

    def _metrics(self, sums: dict[str, float]) -> dict[str, Any]:
        self.trainer.meter.clear()
        if not math.isfinite(sums["loss_sum"]) or not math.isfinite(sums.get("synth_loss", 0.0)):
            raise self._diverged("the loss")
        row = {
            "update": self.trainer.updates,
            "tokens": self.trainer.tokens,
            "seconds": round(self.seconds, 3),
            f"train_{self.unit}": self._error(sums, ""),
        }
        if "synth_loss" in sums:
            row["synth_loss"] = round(sums["synth_loss"] / sums["synth_steps"], 5)
        synthetic = getattr(self.trainer, "synthetic", None)
        if synthetic is not None and synthetic.audit is not None:
            row["audit_worth"] = round(synthetic.audit.worth().mean().item(), 4)
            if len(cosine_P := synthetic.audit.cosine()):  # none before the first audit
                row["audit_cosine"] = round(cosine_P.mean().item(), 4)
        for level in range(len(getattr(self.trainer, "levels", ()))):
            k = f"_{level}"
            if f"loss_sum{k}" in sums and sums[f"scored{k}"] < sums["scored"]:
                row[f"train_{self.unit}{k}"] = self._error(sums, k)
        for name in sums:  # the errors of synthesizers, by level, or by cut of a net
            kind, found, number = name.partition("_loss_")
            if found:
                row[name] = round(sums[name] / sums[f"{kind}_steps_{number}"], 5)
        return row

    def _error(self, sums: dict[str, float], level: str) -> float:
        error = sums[f"loss_sum{level}"] / max(sums[f"scored{level}"], 1)
        return round(to_bits(error) if self.unit == "bits" else error, 5)

    def _step(self, chunk: Any, steps_known: int) -> None:
        arguments: dict[str, Any] = {}
        if steps_known:
            arguments["ahead"] = self.stream.peek(steps_known)
        if self.known_answers is not None:
            arguments["condition"] = self._conditions(self.known_answers, chunk)
        if self.parallel is not None and not self.deals_rows:
            chunk, arguments = self._own_rows(chunk, arguments)
        try:
            self.step(chunk, **arguments)
        except FloatingPointError:  # from the CPU at once; a GPU tells it with the next row
            raise self._diverged("the loss or its gradient") from None

    def _own_rows(self, chunk: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The rows of this process: of the stream's chunk, and of what goes with it."""
        assert self.parallel is not None
        rows = self.parallel.rows(self.options.batch)

        def own(part: Any) -> Any:
            if part is None or isinstance(part, Tensor):
                return part if part is None else part[:, rows]
            return getattr(part, "_make", type(part))(map(own, part))

        if "ahead" in arguments:
            arguments["ahead"] = own(arguments["ahead"])
        if "condition" in arguments:
            arguments["condition"] = tuple(x_BK[rows] for x_BK in arguments["condition"])
        return own(chunk), arguments

    def _conditions(self, known: KnownAnswers, chunk: Any) -> tuple[Tensor, Tensor]:
        """What a critic sees at a chunk's start and at its end."""
        critic, rest = self.trainer.boundary.synthesizer, self.stream.peek(WHOLE)
        after, rows = [] if rest is None else [rest], chunk.targets.shape[1]
        return (
            known.condition(critic, [chunk, *after], rows),
            known.condition(critic, after, rows),
        )

    def _diverged(self, what: str) -> RunError:
        last = self.directory.path / "last.pt"
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet"
        return RunError(
            f"{what} is no longer finite after {self.trainer.updates} updates; {kept}. "
            "Try a smaller --lr, --clip or --grad-scale"
        )

    def _bar(self) -> tqdm:
        options = self.options
        length = f" T={options.chunk_len}" if hasattr(options, "chunk_len") else ""
        return tqdm(
            total=100.0,
            initial=min(100.0, 100 * self.fraction()),
            desc=f"{options.recipe} {options.trainer}{length}",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            disable=True if rank() else None,
        )

    def _print_line(self) -> None:
        """Print how far the run is, where there is no terminal for a bar."""
        done = f"{self.trainer.updates} updates, {self.trainer.tokens:,} tokens"
        print(
            f"{100 * self.fraction():5.1f}% after {self.seconds:.0f} s: {done}",
            file=sys.stderr,
            flush=True,
        )

    def _show(self, bar: tqdm, note: str, row: dict[str, Any]) -> None:
        error = row.pop("shown", f"{row[f'train_{self.unit}']:.3f} {self.unit}")
        now = f"update {row['update']}, {error}"
        bar.set_postfix_str(f"{now}, {note}" if note else now, refresh=False)
        bar.update(max(0.0, min(100.0, 100 * self.fraction()) - bar.n))


@contextmanager
def _stop_requests(unit: str) -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, to stop after the unit; a 2nd Ctrl-C stops at once."""
    requests: list[int] = []

    def request(number: int, _frame: Any) -> None:
        if requests and number == signal.SIGTERM:
            return  # torchrun sends it after the Ctrl-C that all of its processes got
        if requests:
            raise KeyboardInterrupt
        requests.append(number)
        os.write(2, f"\nstopping after this {unit}; Ctrl-C once more stops at once\n".encode())

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _floats(state: Any) -> Iterator[torch.Tensor]:
    """Every tensor of real numbers in a checkpoint."""
    if isinstance(state, torch.Tensor) and state.is_floating_point():
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _floats(part)


def table(rows: dict[str, Any]) -> str:
    """A table of two aligned columns.

    Args:
        rows: names and values; floats are shown with four decimals.

    Returns:
        The lines.

    Example:
        >>> print(table({"updates": 10, "bits": 0.12345}))
        updates  10
        bits     0.1235
    """
    width = max(map(len, rows))
    shown = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in rows.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())
