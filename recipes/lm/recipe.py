"""Recipe ``lm``: a language model by character, word or subword, trained along a text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm

from seqdni import Chunk, HierarchyTrainer, SequenceModel
from seqdni.corpora import (
    Batch,
    CharVocabulary,
    CorpusError,
    Encoded,
    KnownVocabulary,
    Tokens,
    TokenStream,
    Vocabulary,
    blocks,
    encode_splits,
    evaluation_chunks,
    own_text,
    scored_size,
    size_of,
    vocabulary_from,
)
from seqdni.recipes.apart import check_launched
from seqdni.recipes.build import build_trainer, load_weights
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.fine_tune import known_tokens
from seqdni.recipes.held_out import HeldOut, log_horizon
from seqdni.recipes.levels_apart import sections, step_of
from seqdni.recipes.lm import hierarchy
from seqdni.recipes.lm.data import (
    figures,
    prepared,
    read_corpus,
    tokens_of,
    unit,
)
from seqdni.recipes.lm.hierarchy import Reader
from seqdni.recipes.lm.model import (
    EVALUATION_ROWS,
    LanguageModel,
    at_once,
    build,
    loss_of,
    score,
    trained_part,
)
from seqdni.recipes.lm.notes import (
    note,
    note_corpus,
    note_text,
    note_unknown,
    worse_than_guessing,
)
from seqdni.recipes.lm.options import Options
from seqdni.recipes.lm.options import prepare as prepare  # what a recipe has
from seqdni.recipes.lm.sample import write
from seqdni.recipes.processes import own_rows
from seqdni.recipes.session import Session
from seqdni.recipes.trained import Trained
from seqdni.recipes.trainers import way_of

SAMPLE_LENGTH = {"char": 300, "word": 80, "subword": 120}


class Material(NamedTuple):
    """The corpus and the model of a run.

    Args:
        corpus: encoded.
        model: the model that is evaluated; the trainer may have a wrapper around it.
    """

    corpus: Encoded
    model: LanguageModel


def start(options: Options, directory: RunDirectory) -> Session:
    """Corpus, model and trainer of a run that has not begun.

    Args:
        options: of the run.
        directory: where it writes.

    Returns:
        The session.

    Raises:
        CorpusError: the corpus is missing or damaged.
        RunError: the options do not fit the corpus.
    """
    if options.hierarchy > 1:
        check_launched(options, options.hierarchy, "level")
    text = read_corpus(options)
    corpus = encode_splits(text, _tokens(options))
    for split, size in corpus.sizes.items():
        if size.tokens < 2:
            raise RunError(
                f"{corpus.name}: {size.tokens} tokens for {split}, expected at least 2; give a "
                "longer text, or other --valid-fraction and --test-fraction (0: no such split)"
            )
    if corpus.valid is None and (options.patience is not None or options.schedule == "plateau"):
        raise RunError(
            f"--patience and --schedule plateau need a validation split, and {corpus.name} has none"
        )
    # Levels in processes of their own all read the same rows.
    rows = None if options.apart else own_rows(options.batch)
    try:
        stream = TokenStream(corpus.train, options.batch, options.chunk_len, rows)
    except CorpusError as error:
        raise RunError(f"--batch {options.batch}: {error}") from None
    note_corpus(options, text, corpus)
    model, step = build(options, len(corpus.vocabulary)), None
    if isinstance(model, Reader):
        hierarchy.check_length(options, stream.tokens_per_epoch // options.batch)
        trainer = hierarchy.build_trainer(options, model, loss_of(model))
        step = step_of(options, trainer)
    else:
        chunks = float(options.update_every) / way_of(options).cuts_per_chunk(options)
        scale = 1 / (options.chunk_len * chunks)
        trainer = build_trainer(options, model, scale, loss_of(model))
    progress = {
        "vocabulary": corpus.vocabulary.to_json(),
        "corpus": corpus.digest,
        "evaluated": 0,
        "best_nats": math.inf,
        "since_best": 0,  # validations
        "lr_factor": 1.0,
        "curve": [],  # [updates, tokens, nats per token] of each validation
    }
    data = Material(corpus, model)
    wrapped = way_of(options).wrap_stream(options, stream)
    session = Session(
        *(directory, options, trainer, wrapped, progress, data),
        step=step,
        apart=options.apart is not None,
        deals_rows=rows is not None,
    )
    if options.epochs is not None:
        limit = max(1, round(options.epochs * stream.tokens_per_epoch))
        session.most_tokens = min(limit, options.max_tokens or limit)
    return session


def resumed(session: Session) -> None:
    """Refuse to resume a run with other data.

    Args:
        session: restored.

    Raises:
        RunError: the data is not that of the run.
    """
    _same_text(session.data.corpus, session.progress)


def run(session: Session) -> dict[str, Any]:
    """Train, validate ``--evaluations`` times, and keep and test the best model.

    Args:
        session: new, or restored.

    Returns:
        What result.json holds.
    """
    corpus, progress = session.data.corpus, session.progress
    trainer, options = session.trainer, session.options
    evaluations, name, judge = options.evaluations, unit(options), judged_by(corpus)
    done = int(session.fraction() * evaluations)  # smaller than before if a limit was raised
    progress["evaluated"] = min(progress["evaluated"], done)
    held_out_text = partial(validation_chunks, corpus, options.chunk_len, None)
    trained_on = corpus.scored("train")

    def finished() -> bool:
        return options.patience is not None and progress["since_best"] >= options.patience

    chunks: Iterator[Any] = _scheduled(session)
    if isinstance(trainer, HierarchyTrainer):
        chunks = hierarchy.as_hierarchy_chunks(chunks, trainer)
        due = lambda: int(options.log_every - (trainer.updates - session.reported))  # noqa: E731
        chunks = sections(session, chunks, due)
    for row in session.train(chunks, lambda: trainer.updates, finished):
        log_horizon(session, held_out_text, row)
        train = figures(options, row["train_bits"] * math.log(2), trained_on)[name]
        row["shown"] = f"train {train:.3f} {name}"
        if session.fraction() * evaluations >= progress["evaluated"] + 1:
            row |= {f"{judge}_{k}": round(v, 5) for k, v in _validate(session).items()}
            row["note"] = f"{judge} {row[f'{judge}_{name}']:.3f}"
            unknown = row.get(f"{judge}_unk")
            words = "" if unknown is None else f", {unknown:.1%} of the words <unk>"
            tqdm.write(
                f"{trainer.updates:>8} updates {trainer.tokens:>11,} tokens  "
                f"train {train:.3f}  {row['note']} {name}{words}"
            )
    if not progress["curve"] or progress["curve"][-1][0] != trainer.updates:
        _validate(session)
        session.save("last")
    return finish(session)


def judged_by(corpus: Encoded) -> str:
    """The split that the best model is chosen on.

    Args:
        corpus: of the run.

    Returns:
        ``valid``, or ``train`` where there is none.
    """
    return "train" if corpus.valid is None else "valid"


def _scheduled(session: Session) -> Iterator[Chunk]:
    """The stream's chunks; before each one the learning rate is set."""
    options, trainer = session.options, session.trainer
    for chunk in session.stream:
        factor = session.progress["lr_factor"]
        if options.schedule == "cosine":
            factor *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, session.fraction()))
        if trainer.updates < options.warmup_updates:
            factor *= (trainer.updates + 1) / options.warmup_updates
        for learner in trainer.learners:
            for group in learner.optimizer.param_groups:
                group["lr"] = options.lr * factor
        yield chunk


def _validate(session: Session) -> dict[str, float]:
    progress, options, trainer = session.progress, session.options, session.trainer
    corpus, model = session.data
    split = judged_by(corpus)
    nats = score(model, getattr(corpus, split), len(corpus.vocabulary))
    if session.processes is not None:  # so that all come to the same decisions
        nats = session.processes.from_first([nats])[0]
    progress["evaluated"] = int(session.fraction() * options.evaluations)
    progress["curve"].append([trainer.updates, trainer.tokens, nats])
    if nats < progress["best_nats"]:
        progress["best_nats"], progress["since_best"] = nats, 0
        session.save("best")
    else:
        progress["since_best"] += 1
        if options.schedule == "plateau":
            progress["lr_factor"] *= options.decay
    return figures(options, nats, corpus.scored(split))


def finish(session: Session) -> dict[str, Any]:
    """Compute the result of a run, with the test error of its best model.

    Args:
        session: at the end of the run.

    Returns:
        What result.json holds.
    """
    options, curve, corpus = session.options, session.progress["curve"], session.data.corpus
    model = trained(session.directory, options).model
    judge = judged_by(corpus)
    size = corpus.scored(judge)
    result = session.result() | {"corpus": corpus.name, "symbols": len(corpus.vocabulary)}
    for when, nats in ((judge, session.progress["best_nats"]), (f"final_{judge}", curve[-1][2])):
        result |= {f"{when}_{k}": v for k, v in figures(options, nats, size).items()}
    if corpus.test is not None:
        result |= _split_figures(model, options, corpus, "test")
    name = unit(options)
    result[f"{judge}_curve"] = [[u, t, figures(options, nats, size)[name]] for u, t, nats in curve]
    return result | worse_than_guessing(curve[-1][2], len(corpus.vocabulary))


def _split_figures(
    model: LanguageModel, options: Options, corpus: Encoded, split: str
) -> dict[str, float]:
    nats = score(model, getattr(corpus, split), len(corpus.vocabulary))
    found = figures(options, nats, corpus.scored(split))
    return {f"{split}_{k}": v for k, v in found.items()}


def evaluate(
    directory: RunDirectory,
    options: Options,
    text: str | None = None,
    split: str | None = None,
    unknown: str | None = None,
) -> dict[str, Any]:
    """Recompute the result of a run from its best checkpoint, or score another text with it.

    Args:
        directory: of the run.
        options: its options.
        text: path of a text to score; None takes the run's own corpus.
        split: of the run's corpus; None takes validation and test.
        unknown: what to do with characters that the model does not know: ``refuse`` (as None), or
            ``replace``.

    Returns:
        Names and numbers: bits per character, perplexity per word, or both.

    Raises:
        CorpusError: the text has a character that the model does not know.
        RunError: a text and a split were given, or the corpus has no such split.
    """
    model, progress, vocabulary, _ = trained(directory, options)
    assert vocabulary is not None
    if unknown is not None and (text is None or not isinstance(vocabulary, CharVocabulary)):
        raise RunError("--unknown has no effect here; it needs --text and a run of --tokens char")
    if text is not None:
        if split is not None:
            raise RunError("give --text or --split, not both")
        return {"text": text, **_text_figures(model, vocabulary, options, text, unknown)}
    if "corpus" not in progress:
        raise RunError(f"{directory.path} is an export; give a text to score with --text")
    corpus = encode_splits(read_corpus(options), _tokens(options, vocabulary))
    _same_text(corpus, progress)
    if split is not None and split not in corpus.sizes:
        raise RunError(f"--split {split}: the corpus has {', '.join(corpus.sizes)}")
    result: dict[str, Any] = {"updates": progress["curve"][-1][0]}
    for each in (split,) if split else ("valid", "test"):
        if each in corpus.sizes:
            note_unknown(f"{corpus.name}, {each}", corpus.scored(each))
            result |= _split_figures(model, options, corpus, each)
    return result


def _text_figures(
    model: LanguageModel, vocabulary: Vocabulary, options: Options, path: str, unknown: str | None
) -> dict[str, float]:
    own = own_text(path, 0.0, 0.0)
    note_text(options, own)
    whole = prepared(options, "".join(blocks(own.train)))
    if not whole.strip():
        raise RunError(f"--text {path} is only white space")
    replaced = {}
    if unknown == "replace":
        assert isinstance(vocabulary, CharVocabulary)
        whole, count = vocabulary.replaced(whole)
        replaced = {"replaced": count}
        note(
            f"{path}: {count} of {len(whole)} characters ({count / len(whole):.1%}) are not known "
            f"to the model and are scored as {vocabulary.stand_in!r}"
        )
    try:
        tokens = vocabulary.encode(whole)
    except CorpusError as error:
        hint = "; or use --unknown replace" if isinstance(vocabulary, CharVocabulary) else ""
        raise RunError(f"--text {path}: {error}{hint}") from None
    size = scored_size(vocabulary, tokens, size_of(vocabulary, whole, tokens))
    note_unknown(path, size)
    nats = score(model, tokens, len(vocabulary))
    return figures(options, nats, size) | replaced


def sample(directory: RunDirectory, options: Options, asked: Sampling) -> None:
    """Print text that the best model generates, token by token.

    Args:
        directory: of the run.
        options: its options.
        asked: the length in tokens, and how they are chosen.
    """
    model, _, vocabulary, _ = trained(directory, options)
    assert vocabulary is not None
    length = SAMPLE_LENGTH[options.tokens] if asked.length is None else asked.length
    asked = asked._replace(length=length)
    if options.corpus == "ptb" and options.tokens == "char":
        asked = asked._replace(prompt=asked.prompt.replace(" ", "_"))
    write(model, vocabulary, asked, as_bytes=options.corpus == "enwik8")


def _tokens(options: Options, known: Vocabulary | None = None) -> Tokens:
    """The kind of tokens: the corpus's own, or those of the model that training starts from."""
    if options.init_from is None or options.corpus == "enwik8":  # whose bytes are always the same
        return tokens_of(options)
    return known_tokens(options.init_from) if known is None else KnownVocabulary(known)


def _same_text(corpus: Encoded, progress: dict[str, Any]) -> None:
    if corpus.digest != progress.get("corpus"):
        raise RunError(
            f"{corpus.name} is not the text that the run was trained on; put that one back, "
            "or score another with: seqdni eval DIR --text FILE"
        )


def trained(directory: RunDirectory, options: Options) -> Trained:
    """The best model of a run, or that of an export. It can be read without the corpus.

    Args:
        directory: of the run or export.
        options: its options.

    Returns:
        The model, its vocabulary, and the run's progress when it was saved.
    """
    saved = directory.load("best")
    try:
        vocabulary = vocabulary_from(saved["progress"]["vocabulary"])
    except (KeyError, ValueError) as error:
        raise RunError(f"{directory.path}/best.pt does not fit: {error}") from None
    model = build(options, len(vocabulary))
    load_weights(saved, directory.path / "best.pt", options, trained_part(model))
    return Trained(model, saved["progress"], vocabulary, trained_part(model))


def held_out(directory: RunDirectory, options: Options, length: int | None) -> HeldOut:
    """The validation text in chunks, for ``seqdni horizon``.

    Args:
        directory: of the run.
        options: its options.
        length: number of chunks; None takes as many as make about 100 steps.

    Returns:
        The chunks, a new model, and its loss.

    Raises:
        RunError: the run's model has several levels.
    """
    if options.hierarchy > 1:
        raise RunError("seqdni horizon looks at one network's chunks; --hierarchy has several")
    progress = directory.load("last")["progress"]
    known = vocabulary_from(progress.get("vocabulary", {}))
    corpus = encode_splits(read_corpus(options), _tokens(options, known))
    _same_text(corpus, progress)
    model = build(options, len(corpus.vocabulary))
    assert isinstance(model, SequenceModel)
    return HeldOut(validation_chunks(corpus, options.chunk_len, length), model, loss_of(model))


def validation_chunks(corpus: Encoded, chunk_len: int, length: int | None) -> list[Batch]:
    """The beginning of the validation text, or of the training text where there is none.

    Args:
        corpus: of the run.
        chunk_len: T.
        length: number of chunks; None takes as many as make about 100 steps.

    Returns:
        The chunks.
    """
    split = getattr(corpus, judged_by(corpus))
    count = length or max(2, -(-100 // chunk_len))
    most = at_once(len(corpus.vocabulary) * count * chunk_len, EVALUATION_ROWS)
    rows = max(1, min(most, (len(split) - 1) // (count * chunk_len)))
    return list(islice(evaluation_chunks(split, rows, chunk_len), count))
