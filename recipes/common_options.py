"""The options that every recipe has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from seqdni.recipes.device import device_of
from seqdni.recipes.errors import RunError
from seqdni.recipes.option_field import LIMITS, check_values, option
from seqdni.recipes.synthesizers import (
    DESCENDED,
    KINDS,
    LEARNING,
    MLPS,
    REGRESSING,
    SYNTHESIZERS,
    SynthesizerName,
)
from seqdni.recipes.trainers import SYNTHETIC, TRAINERS, FlatTrainer, only_with_own_trainer, way_of

if TYPE_CHECKING:
    import torch

MOST_THREADS = 1024


def for_dni(
    default: Any, help: str, synthesizers: tuple[str, ...] = SYNTHESIZERS, **limits: Any
) -> Any:
    """An option that has an effect only with synthetic gradients, and with some synthesizers only.

    Args:
        default: the default value.
        help: the text that ``--help`` shows.
        synthesizers: the values of ``--synthesizer`` with which it has an effect.
        limits: the limits of :func:`seqdni.recipes.option_field.option`.

    Returns:
        A dataclass field.
    """

    def only(options: RunOptions) -> bool:
        return way_of(options).synthetic and options.synthesizer in synthesizers

    when = f"--trainer {' or '.join(SYNTHETIC)}"
    if synthesizers != SYNTHESIZERS:
        when += f" with --synthesizer {' or '.join(synthesizers)}"
    return option(default, help, only=only, when=when, **limits)


@dataclass
class RunOptions:
    """Options that every recipe has, under the same names."""

    trainer: FlatTrainer = option(  # noqa: RUF009 - a field, as all others; the type is an alias
        "dni",
        "way of training. "
        + "; ".join(f"{name}: {TRAINERS[name].help}" for name in get_args(FlatTrainer)),
    )
    recompute: bool = option(
        False,
        "whether to recompute activations in the backward pass, chunk by chunk: full BPTT then "
        "needs little more memory than a chunk, and a second forward pass",
        **only_with_own_trainer("recompute"),
    )
    cut_probability: float = option(
        0.5,
        "probability p of a cut at a chunk boundary; a graph has 1 / p chunks on average",
        above=0,
        at_most=1,
        **only_with_own_trainer("cut_probability"),
    )
    history: int = option(
        1,
        "number of chunks before each chunk that are run once more, so that its gradient reaches "
        "through them",
        at_least=1,
        **only_with_own_trainer("history"),
    )
    chunk_len: int = option(8, "T: steps of a chunk, the truncation length", at_least=1)
    core: Literal["lstm", "gru", "rnn", "lru"] = option(
        "lstm",
        "kind of recurrent core. lru: a linear recurrence in which no unit acts on another, of one "
        "layer",
    )
    hidden: int = option(256, "number of units of each recurrent layer", at_least=1)
    layers: int = option(1, "number of recurrent layers", at_least=1)
    forget_bias: float = option(
        0.0,
        "number that is added to the initial forget-gate bias of the LSTM; above 0 it keeps its "
        "state for longer at the start",
        only=lambda options: options.core == "lstm" and not options.chrono_steps,
        when="--core lstm without --chrono-steps",
    )
    chrono_steps: int = option(
        0,
        "the gates of the LSTM begin with memories of 1 to this many steps (chronological "
        "initialisation, Tallec & Ollivier); 0: not so",
        at_least=0,
        only=lambda options: options.core == "lstm",
        when="--core lstm",
    )
    init_from: str | None = option(
        None,
        "folder of a run or of an export; training starts from its weights (fine-tuning). null: "
        "random weights, drawn from the seed",
    )
    batch: int = option(32, "B: number of sequences (rows) that are trained together", at_least=1)
    lr: float = option(1e-3, "learning rate of the model", above=0)
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser of the model")
    weight_decay: float = option(
        0.0,
        "weight decay of the model; with adamw it acts on the weights directly (decoupled), "
        "otherwise it is added to the gradient",
        at_least=0,
    )
    momentum: float = option(
        0.0,
        "momentum of --optimizer sgd",
        at_least=0,
        only=lambda options: options.optimizer == "sgd",
        when="--optimizer sgd",
    )
    clip: float = option(
        1.0, "largest norm of the model's gradient; a larger one is scaled down to it", above=0
    )
    update_every: Literal["episode"] | int = option(
        1,
        "number of chunks whose gradients are summed for one update of the model, or 'episode' for "
        "all chunks of an episode",
        at_least=1,
    )
    synthesizer: SynthesizerName | None = for_dni(  # noqa: RUF009 - as for the trainer
        None,
        "the synthesizer, which predicts the gradient at the end of a chunk. "
        + "; ".join(f"{name}: {KINDS[name]}" for name in SYNTHESIZERS)
        + "; null: critic for recall, copy-memory, adding and mnist, rls for copy and "
        "repeat-copy, none for text, mlp with --trainer dni-aux",
    )
    look_ahead: int = for_dni(
        0,
        "K: number of steps after a chunk that the model also runs over, for the exact gradient of "
        "their loss at the chunk's end. It costs about K / T of a chunk. The synthesizer predicts "
        "the gradient of what comes after these steps",
        at_least=0,
    )
    forgetting: float = for_dni(
        0.97,
        "factor on the weight of all earlier data at each update of least squares",
        ("rls",),
        above=0,
        at_most=1,
    )
    ridge: float = for_dni(
        1e-4,
        "damping of least squares, as a fraction of each feature's sum of squares",
        ("rls",),
        above=0,
    )
    solve_every: int | None = for_dni(
        None,
        "updates of least squares from one solution to the next; null: a 32nd of the "
        "number of features, since a solution costs more the wider the state",
        ("rls",),
        at_least=1,
    )
    synth_hidden: int | None = for_dni(
        None,
        "units of the synthesizer's hidden layer; null: half as many as --hidden (the paper has as "
        "many as --hidden)",
        ("mlp", "whitened"),
        at_least=1,
    )
    synth_lr: float = for_dni(1e-3, "learning rate of the synthesizer's Adam", DESCENDED, above=0)
    synth_clip: float = for_dni(
        1.0, "largest norm of the synthesizer's gradient", DESCENDED, above=0
    )
    train_fraction: float = for_dni(
        1.0,
        "share of the chunks that the synthesizer learns from; a smaller share takes less time",
        LEARNING,
        above=0,
        at_most=1,
    )
    updates_per_chunk: int = for_dni(
        1,
        "updates of the synthesizer in a chunk, each on its own part of the targets",
        MLPS,
        at_least=1,
    )
    targets: Literal["boundary", "dense"] = for_dni(
        "boundary",
        "gradients that the synthesizer learns from. boundary: that of the state at the chunk's "
        "start; dense: those of all states in the chunk (not with --core rnn or with dni-aux)",
        REGRESSING,
    )
    grad_scale: float | None = for_dni(
        None,
        "factor on the synthetic gradient that the model gets; null: 0.1 with the critic, else 1",
        LEARNING,
        at_least=0,
    )
    bound: float | None = for_dni(
        1.0,
        "limit of the root mean square of a row's synthetic gradient, as a multiple of that of the "
        "gradients that the synthesizer learns from; null: no limit",
        REGRESSING,
        above=0,
    )
    audit_every: int | None = for_dni(
        None,
        "measure the synthetic gradients of one in so many episodes against the true ones, and "
        "apply only as much of them as they are worth; null: never",
        LEARNING,
        at_least=1,
    )
    control: Literal["shuffled", "batch-mean", "zero"] | None = for_dni(
        None,
        "a control for experiments, which changes the gradients that rows get. shuffled: those of "
        "other rows; batch-mean: the mean of all rows; zero: none. A gain over tbptt that remains "
        "does not come from credit assignment",
    )
    warmup_chunks: int = for_dni(
        0,
        "number of first chunks in which the synthesizer learns but its predictions are not used "
        "(the gradients from --look-ahead are)",
        LEARNING,
        at_least=0,
    )
    horizon_every: int | None = for_dni(
        None,
        "updates between two measurements, on held-out data, of how far credit reaches. The log "
        "gets horizon_cosine (cosine of the weight gradient with that of full BPTT) and "
        "horizon_steps; null: no measurement",
        at_least=1,
    )
    precision: Literal["float32", "bfloat16"] = option(
        "float32",
        "number type of the computation; with bfloat16 the parameters stay float32 (autocast)",
    )
    capture: bool = option(
        False,
        "whether to compute each chunk by a CUDA graph, which takes Python's time off the GPU: "
        "several times faster at a small T. Chunks that no graph can compute run as usual",
    )
    compiled: bool = option(
        False,
        "whether compiled layers run an LSTM or a GRU on a CPU: the same up to rounding, in less "
        "time where a chunk is small. They are built once on a machine, by a C++ compiler and "
        "ninja (pip install 'seqdni[compiled]')",
    )
    seed: int = option(
        0, "seed of the initial weights and of the data", at_least=0, at_most=2**63 - 1
    )
    updates: int | None = option(10_000, "stop after this many weight updates", at_least=1)
    max_seconds: float | None = option(None, "stop after this many seconds of training", above=0)
    device: str = option(
        "auto", "where to compute: cpu, cuda, cuda:1 ...; auto takes a GPU if there is one"
    )
    threads: int | None = option(
        None, "number of CPU threads; null: torch decides", at_least=1, at_most=MOST_THREADS
    )
    log_every: int = option(50, "updates between two rows of metrics.jsonl", at_least=1)
    checkpoint_seconds: float = option(60.0, "seconds of training between two checkpoints", above=0)
    out: str | None = option(None, "folder of the run; null: runs/RECIPE/TIME")


class Sampling(NamedTuple):
    """The options of ``seqdni sample``.

    Args:
        length: number of symbols; None takes the recipe's.
        seed: of the random choices.
        temperature: divides the scores: below 1 likely symbols are chosen more often, above 1 less
            often; 0 always takes the likeliest.
        top_k: choose among so many of the likeliest symbols; None: among all.
        prompt: text to continue.
    """

    length: int | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    prompt: str = ""


def absolute(path: str) -> str:
    """A path that holds wherever a run is resumed.

    Args:
        path: of a file or folder, perhaps with ``~``.
    """
    return str(Path(path).expanduser().resolve())


# What may differ when a run is resumed: where it stops and how it is watched, not what it computes.
RESUMABLE = {
    *LIMITS,
    *("patience", "threads", "checkpoint_seconds", "data_dir", "apart", "compiled"),
}


def check(options: Any, synthesizer: str, has_critic: bool = False) -> None:
    """Refuse values out of range, and options that would have no effect.

    Args:
        options: a recipe's options. This function sets ``synthesizer`` and ``grad_scale`` where
            they are None.
        synthesizer: the recipe's default for it.
        has_critic: whether the recipe tells the synthesizer the answers to come.

    Raises:
        RunError: an option cannot be used; the message names it.
    """
    way = way_of(options)
    if options.synthesizer is None and way.synthetic:
        options.synthesizer = "mlp" if way.aux else synthesizer
    check_values(options)
    _check_core(options)
    if options.grad_scale is None and way.synthetic:
        options.grad_scale = 0.1 if options.synthesizer == "critic" else 1.0
    if options.synthesizer == "critic" and not has_critic:
        raise RunError(
            "--synthesizer critic needs episodes of one length with answers that are known ahead, "
            "as recall, copy-memory, adding and mnist have; use --synthesizer rls"
        )
    if options.synthesizer == "critic" and options.look_ahead:
        raise RunError("--synthesizer critic does not go with --look-ahead; add --synthesizer rls")
    if options.audit_every and options.look_ahead:
        raise RunError("--audit-every does not go with --look-ahead; leave one of them out")
    if options.synthesizer == "none" and not options.look_ahead:
        raise RunError(
            "--synthesizer none without --look-ahead is plain tbptt; use --trainer tbptt"
        )
    if way.aux and options.synthesizer not in ("mlp", "whitened"):
        raise RunError(
            f"--trainer {options.trainer} shapes a hidden layer of the synthesizer, and "
            f"--synthesizer {options.synthesizer} has none; add --synthesizer mlp"
        )
    if options.updates_per_chunk > 1 and way.aux:
        raise RunError("--updates-per-chunk needs --trainer dni")
    if options.targets == "dense" and options.precision != "float32":
        raise RunError("--targets dense computes the core in float32; leave --precision at float32")
    if options.targets == "dense" and options.core == "rnn":
        raise RunError("--targets dense is for --core lstm, gru or lru")
    if options.targets == "dense" and way.aux:
        raise RunError("--targets dense needs --trainer dni")
    device = device_of(options)
    if options.capture:
        _check_capture(options, device)


def _check_capture(options: Any, device: torch.device) -> None:
    if device.type != "cuda":
        raise RunError(f"--capture needs a CUDA device, got {device}; leave it out here")
    if options.optimizer == "sgd":
        raise RunError("--capture does not go with --optimizer sgd; use adam or adamw")
    never = {
        "--trainer overlap": options.trainer == "overlap",
        "--trainer influence": options.trainer == "influence",
        "--targets dense": options.targets == "dense",
        "--updates-per-chunk": options.updates_per_chunk > 1,
        "--audit-every": bool(options.audit_every),
        "--recompute": options.recompute,
    }
    for name, given in never.items():
        if given:
            raise RunError(f"--capture has no effect with {name}; leave one of them out")


def check_compiled(options: Any) -> None:
    """Refuse ``--compiled`` where no compiled layer would run.

    Args:
        options: a recipe's options.

    Raises:
        RunError: the core, the device or the number type is one without compiled layers.
    """
    if not options.compiled:
        return
    if options.core not in ("lstm", "gru"):
        raise RunError(f"--compiled is for --core lstm or gru, got {options.core}; leave it out")
    if (device := device_of(options)).type != "cpu":
        raise RunError(f"--compiled is for a CPU, got {device}; add --device cpu, or leave it out")
    if getattr(options, "precision", "float32") != "float32":
        raise RunError(
            f"--compiled computes in float32, got --precision {options.precision}; leave one of "
            "them out"
        )


def _check_core(options: Any) -> None:
    check_compiled(options)
    if options.core == "lru" and options.layers > 1:
        raise RunError("--core lru has one layer; leave --layers out, or use --core lstm or gru")
    if options.trainer != "influence":
        return
    if options.core == "rnn" or options.layers > 1:
        raise RunError(
            "--trainer influence is for one layer of --core lstm, gru or lru; use --layers 1 and "
            "one of these, or --trainer dni or overlap"
        )
    if options.precision != "float32":
        raise RunError(
            "--trainer influence computes the core in float32; leave --precision at float32"
        )
