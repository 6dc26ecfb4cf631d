"""Recipe ``lm``: a character language model, trained chunk by chunk along a text."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from corpora import (
    Batch,
    CorpusError,
    Encoded,
    Text,
    TokenStream,
    Vocabulary,
    blocks,
    encode_splits,
    evaluation_chunks,
    own_text,
    ptb_text,
    pydoc_text,
    vocabulary_from,
)
from recipes import horizon
from recipes.build import build_model, build_stream, build_trainer, load_model
from recipes.directory import RunDirectory
from recipes.errors import RunError
from recipes.options import LEARNING, RunOptions, check, for_dni, option
from recipes.session import Session
from seqdni import Model, SequenceModel, cross_entropy, detach, masked_sum, to_bits, unroll

SUMMARY = "character language model on Penn Treebank, your own text, or Python's manual"
EVALUATION_ROWS, EVALUATION_STEPS = 64, 200
SAMPLE_LENGTH = 300


@dataclass
class Options(RunOptions):
    """Options of ``seqdni run lm``."""

    recipe: Literal["lm"] = "lm"
    corpus: str = option("pydoc", "pydoc (comes with Python), ptb (needs --data-dir), or a file")
    tokens: Literal["char"] = option("char", "what a symbol is")
    data_dir: str | None = option(
        None,
        "folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt",
        only=lambda options: options.corpus == "ptb",
        when="--corpus ptb",
    )
    max_tokens: int | None = option(None, "stop after this many training characters", at_least=1)
    evaluations: int = option(
        10, "validations during the run, at most one each --log-every", at_least=1
    )
    look_ahead: int = for_dni(
        4,
        "K: steps after a chunk whose gradient is taken by running the model on over them; the "
        "synthesizer is asked for what lies beyond",
        at_least=0,
    )
    # An endless stream: at full scale the bootstrapped targets feed on themselves and diverge.
    grad_scale: float = for_dni(
        0.1, "factor on the synthetic gradient where the model consumes it", LEARNING, at_least=0
    )
    lr: float = option(4e-3, "Adam's learning rate for the model", above=0)
    updates: int = option(8000, "stop after this many weight updates", at_least=1)


def prepare(options: Options) -> None:
    """Refuse what cannot work, before any data is read; make paths absolute.

    Args:
        options: of the run, changed in place.

    Raises:
        RunError: naming the option.
    """
    check(options, synthesizer="none")
    if options.synthesizer == "none" and not options.look_ahead:
        raise RunError(
            "--synthesizer none without --look-ahead is plain tbptt; use --trainer tbptt"
        )
    if options.trainer == "bptt":
        raise RunError(
            "--trainer bptt unrolls whole episodes, and a text has no end of episode; "
            "use --trainer tbptt with a longer --chunk-len"
        )
    if options.update_every == "episode":
        raise RunError("--update-every episode: a text has no episodes; give a number of chunks")
    if options.data_dir is not None:
        options.data_dir = str(Path(options.data_dir).expanduser().resolve())
    if options.corpus not in ("pydoc", "ptb"):
        options.corpus = str(Path(options.corpus).expanduser().resolve())


def start(options: Options, directory: RunDirectory) -> Session:
    """Corpus, model and trainer of a run that has not begun.

    Args:
        options: of the run.
        directory: where it writes.

    Returns:
        The session.

    Raises:
        CorpusError: the corpus is missing or damaged.
    """
    corpus = encode_splits(read_corpus(options))
    try:
        stream = TokenStream(corpus.train, options.batch, options.chunk_len)
    except CorpusError as error:
        raise RunError(f"--batch {options.batch}: {error}") from None
    symbols = len(corpus.vocabulary)
    model = build_model(options, symbols, symbols)
    chunks = float(options.update_every)  # of an update, on average
    if options.trainer == "random":
        chunks /= options.cut_probability
    trainer = build_trainer(options, model, 1 / (options.chunk_len * chunks))
    progress = {
        "vocabulary": corpus.vocabulary.to_json(),
        "corpus": corpus.digest,
        "evaluated": 0,
        "best_valid_bpc": math.inf,
        "valid_bpc": [],  # [updates, tokens, BPC] of each validation
    }
    stream = build_stream(options, stream)
    return Session(directory, options, trainer, stream, progress, data=corpus)


def run(session: Session) -> dict[str, Any]:
    """Train, validating now and then; the best model is kept and tested.

    Args:
        session: new, or restored.

    Returns:
        What result.json holds.
    """
    corpus, progress, trainer = session.data, session.progress, session.trainer
    _same_text(corpus, progress)
    evaluations = session.options.evaluations
    done = int(session.fraction() * evaluations)  # fewer than before where the run was prolonged
    progress["evaluated"] = min(progress["evaluated"], done)
    steps = session.options.look_ahead if trainer.boundary is not None else 0
    ahead = (lambda: session.stream.peek(steps)) if steps else (lambda: None)
    held_out_text = partial(validation_chunks, corpus, session.options.chunk_len, None)
    for row in session.train(session.stream, lambda: trainer.updates, ahead):
        horizon.log(session, held_out_text, row)
        if session.fraction() * evaluations >= progress["evaluated"] + 1:
            row["valid_bpc"] = round(_validate(session, corpus), 5)
            row["note"] = f"valid {row['valid_bpc']:.3f}"
            tqdm.write(
                f"{trainer.updates:>8} updates {trainer.tokens:>11,} characters  "
                f"train {row['train_bits']:.3f}  valid {row['valid_bpc']:.3f} bits per character"
            )
    if not progress["valid_bpc"] or progress["valid_bpc"][-1][0] != trainer.updates:
        _validate(session, corpus)
        session.save("last")
    return finish(session, corpus)


def _validate(session: Session, corpus: Encoded) -> float:
    progress = session.progress
    split = corpus.valid if corpus.valid is not None else corpus.train
    bpc = bits_per_character(session.trainer.model, split)
    progress["evaluated"] = int(session.fraction() * session.options.evaluations)
    progress["valid_bpc"].append([session.trainer.updates, session.trainer.tokens, bpc])
    if bpc < progress["best_valid_bpc"]:
        progress["best_valid_bpc"] = bpc
        session.save("best")
    return bpc


def finish(session: Session, corpus: Encoded) -> dict[str, Any]:
    """The result, with the best model's test error.

    Args:
        session: at the end of the run.
        corpus: its corpus.

    Returns:
        What result.json holds.
    """
    model, _, _ = _trained(session.directory, session.options)
    result = session.result()
    result["corpus"] = corpus.name
    result["valid_bpc"] = session.progress["best_valid_bpc"]
    result["final_valid_bpc"] = session.progress["valid_bpc"][-1][2]
    if corpus.test is not None:
        result["test_bpc"] = bits_per_character(model, corpus.test)
    result["valid_curve"] = session.progress["valid_bpc"]
    return result


def evaluate(directory: RunDirectory, options: Options, text: str | None) -> dict[str, Any]:
    """Recompute the result of a run from its best checkpoint, or score another text with it.

    Args:
        directory: of the run.
        options: its options.
        text: path of a text to score; None takes the run's own corpus.

    Returns:
        Bits per character.

    Raises:
        CorpusError: the text has a character that the model does not know.
    """
    model, vocabulary, progress = _trained(directory, options)
    if text is not None:
        whole = "".join(blocks(own_text(text, 0.0, 0.0).train))
        return {"text": text, "bpc": bits_per_character(model, vocabulary.encode(whole))}
    corpus = encode_splits(read_corpus(options))
    _same_text(corpus, progress)
    result = {"updates": progress["valid_bpc"][-1][0]}
    for split in ("valid", "test"):
        tokens = getattr(corpus, split)
        if tokens is not None:
            result[f"{split}_bpc"] = bits_per_character(model, tokens)
    return result


@torch.no_grad()
def bits_per_character(model: Model, tokens: np.ndarray) -> float:
    """Mean over every next-character prediction of a text, state carried along.

    Args:
        model: the language model.
        tokens: ``[n]`` ids.

    Returns:
        Bits per character.
    """
    device = next(model.parameters()).device
    nats, scored, state = torch.zeros((), dtype=torch.float64, device=device), 0, None
    for inputs, targets, mask, _ in evaluation_chunks(tokens, EVALUATION_ROWS, EVALUATION_STEPS):
        state = model.initial_state(inputs.shape[1]) if state is None else state
        logits, state = unroll(model, inputs.to(device), state)
        mask = None if mask is None else mask.to(device)
        nats += masked_sum(cross_entropy(logits, targets.to(device)), mask)
        scored += targets.numel() if mask is None else int(mask.sum())
    return to_bits(nats.item() / scored)


@torch.no_grad()
def sample(
    directory: RunDirectory,
    options: Options,
    length: int | None,
    seed: int,
    temperature: float,
    prompt: str,
) -> None:
    """Print text that the best model makes up, as it comes.

    Args:
        directory: of the run.
        options: its options.
        length: characters to print after the prompt; None prints 300.
        seed: of the choices.
        temperature: below 1 is more careful, above 1 more daring; 0 always takes the likeliest.
        prompt: text to continue; its characters must be known to the model.
    """
    model, vocabulary, _ = _trained(directory, options)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    start = prompt or "\n"
    tokens = torch.from_numpy(vocabulary.encode(start).astype(np.int64))[:, None]
    state = model.initial_state(1)
    sys.stdout.write(prompt)
    for _ in range(SAMPLE_LENGTH if length is None else length):
        logits, state = model(tokens.to(device), detach(state))
        scores = logits[-1, 0].double().cpu()
        if temperature == 0:
            token = scores.argmax()
        else:
            probabilities = (scores / temperature).softmax(0)
            token = torch.multinomial(probabilities, 1, generator=generator)[0]
        tokens = token.view(1, 1)
        sys.stdout.write(vocabulary.decode(tokens[0]))
        sys.stdout.flush()
    sys.stdout.write("\n")


def _same_text(corpus: Encoded, progress: dict[str, Any]) -> None:
    if corpus.digest != progress.get("corpus"):
        raise RunError(
            f"{corpus.name} is not the text that the run was trained on; put that one back, "
            "or score another with: seqdni eval DIR --text FILE"
        )


def _trained(
    directory: RunDirectory, options: Options
) -> tuple[SequenceModel, Vocabulary, dict[str, Any]]:
    """The best model of a run, its vocabulary, and the run's progress when it was saved."""
    saved = directory.load("best")
    vocabulary = vocabulary_from(saved["progress"]["vocabulary"])
    model = load_model(saved, directory.path / "best.pt", options, len(vocabulary), len(vocabulary))
    return model, vocabulary, saved["progress"]


def held_out(
    directory: RunDirectory, options: Options, length: int | None
) -> tuple[list[Batch], int, int]:
    """Validation text in chunks, for the horizon.

    Args:
        directory: of the run.
        options: its options.
        length: chunks; None takes as many as make about 100 steps.

    Returns:
        The chunks, and the numbers of input and output symbols.
    """
    corpus = encode_splits(read_corpus(options))
    _same_text(corpus, directory.load("last")["progress"])
    symbols = len(corpus.vocabulary)
    return validation_chunks(corpus, options.chunk_len, length), symbols, symbols


def validation_chunks(corpus: Encoded, chunk_len: int, length: int | None) -> list[Batch]:
    """The beginning of the validation text, or of the training text where there is none.

    Args:
        corpus: of the run.
        chunk_len: T.
        length: chunks; None takes as many as make about 100 steps.

    Returns:
        The chunks.
    """
    split = corpus.valid if corpus.valid is not None else corpus.train
    count = length or max(2, -(-100 // chunk_len))
    rows = max(1, min(EVALUATION_ROWS, (len(split) - 1) // (count * chunk_len)))
    return list(islice(evaluation_chunks(split, rows, chunk_len), count))


def read_corpus(options: Options) -> Text:
    """The text that ``--corpus`` names.

    Args:
        options: of the run.

    Returns:
        Its splits.

    Raises:
        CorpusError: it is missing or damaged.
        RunError: Penn Treebank without a folder.
    """
    if options.corpus == "pydoc":
        return pydoc_text()
    if options.corpus == "ptb":
        if options.data_dir is None:
            raise RunError(
                "--corpus ptb needs --data-dir, the folder with ptb.train.txt, ptb.valid.txt and "
                "ptb.test.txt (the 'data' folder of Mikolov's simple-examples archive)"
            )
        return ptb_text(options.data_dir)
    return own_text(options.corpus)
