"""Notes that recipe ``lm`` prints: about a text, its unknown words, a run that learned nothing."""

from __future__ import annotations

import math
import sys
from typing import Any

from seqdni import to_bits
from seqdni.corpora import Encoded, Size, Text, Words, blocks, remarks
from seqdni.recipes.lm.data import tokens_of
from seqdni.recipes.lm.options import NAMED

MOST_UNKNOWN = 0.05  # share of the words; with more unknown ones a perplexity means little


def note(line: str) -> None:
    """Print a line on standard error.

    Args:
        line: without a full stop.
    """
    print(f"seqdni: note: {line}", file=sys.stderr, flush=True)


def note_corpus(options: Any, text: Text, corpus: Encoded) -> None:
    """Print what is unusual about a run's corpus, before it trains.

    Args:
        options: of the run.
        text: as it was read.
        corpus: the same, encoded.
    """
    if options.corpus not in NAMED:
        for line in remarks(text, tokens_of(options)):
            note(line)
    if options.tokens == "subword" and len(corpus.vocabulary) < options.subword_size:
        note(
            f"{corpus.name}: the training text has {len(corpus.vocabulary)} pieces, fewer than "
            f"--subword-size {options.subword_size}; the vocabulary is that small"
        )
    for split, size in corpus.sizes.items():
        note_unknown(f"{corpus.name}, {split}", size, trained=corpus.sizes["train"])


def note_text(options: Any, text: Text) -> None:
    """Print what is unusual about a text that a run's model is to score.

    Args:
        options: of the run.
        text: as it was read from a file.
    """
    by_line = options.corpus == "ptb" and options.tokens == "char"  # its words are joined anew
    for line in remarks(text, Words() if by_line else tokens_of(options)):
        note(line)
    joiners = sum(block.count("_") for block in blocks(text.train)) if by_line else 0
    if joiners:
        note(
            f"{text.name}: the character _ stands there {joiners} times and is read as the space "
            "between two words, which Penn Treebank by character writes so"
        )


def note_unknown(place: str, size: Size, trained: Size | None = None) -> None:
    """Print a note where a perplexity has many unknown words.

    Args:
        place: the name of the text, for the note.
        size: size of the scored text.
        trained: size of the training text; None if it is not known.
    """
    if size.words and size.unknown and size.unknown > MOST_UNKNOWN * size.words:
        never = trained is not None and not trained.unknown
        note(
            f"{place}: {size.unknown / size.words:.1%} of the words are <unk>; compare the "
            "perplexity only with that of a model with the same vocabulary"
            + ("; the training text has no <unk> to learn it from: try --max-words" * never)
        )


def worse_than_guessing(nats: float, symbols: int) -> dict[str, str]:
    """A warning for the result of a run whose last model is worse than a uniform guess.

    Args:
        nats: nats per token in the last validation.
        symbols: V; a uniform guess has log V nats per token.

    Returns:
        An entry ``warning``, or an empty dictionary.

    Example:
        >>> worse_than_guessing(2.0, 8)
        {}
        >>> worse_than_guessing(5.0, 8)["warning"]
        'the last model has 7.21 bits a token, a uniform guess 3.00: use a smaller --lr'
    """
    if nats <= math.log(symbols):
        return {}
    return {
        "warning": f"the last model has {to_bits(nats):.2f} bits a token, a uniform guess "
        f"{math.log2(symbols):.2f}: use a smaller --lr"
    }
