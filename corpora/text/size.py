"""The size of a text: in tokens, and in the characters and words of the original text."""

from typing import NamedTuple

import numpy as np

from seqdni.corpora.text.characters import CharVocabulary
from seqdni.corpora.text.source import Source, blocks, whole_lines
from seqdni.corpora.text.vocabulary import Vocabulary
from seqdni.corpora.text.word_numbers import words_of
from seqdni.corpora.text.words import UNKNOWN, WordVocabulary

AROUND = 9  # tokens to decode for the text of the first: a character is up to four tokens (bytes)


class Size(NamedTuple):
    """How long a text is.

    Args:
        tokens: number of tokens.
        characters: number of characters of the original text.
        words: number of words of the original text, where a line end is a word, as in perplexities;
            None for tokens that are characters.
        unknown: number of words that are `<unk>`, because the vocabulary does not have them or the
            text has `<unk>` itself; None for tokens that are characters.
    """

    tokens: int
    characters: int
    words: int | None
    unknown: int | None


def size_of(vocabulary: Vocabulary, source: Source, ids: np.ndarray) -> Size:
    """The size of a text.

    Args:
        vocabulary: of the tokens.
        source: the text.
        ids: [n] its tokens.

    Returns:
        The size.

    Raises:
        CorpusError: the text cannot be read.

    Example:
        >>> vocabulary = WordVocabulary(("<eos>", "<unk>", "tick"))
        >>> text = "tick tock\\n"
        >>> size_of(vocabulary, text, vocabulary.encode(text))
        Size(tokens=3, characters=10, words=3, unknown=1)
    """
    if isinstance(vocabulary, CharVocabulary):
        return Size(len(ids), len(ids), None, None)
    if isinstance(vocabulary, WordVocabulary):
        unknown = int(np.count_nonzero(ids == vocabulary.unknown))
        return Size(len(ids), sum(map(len, blocks(source))), len(ids), unknown)
    return Size(len(ids), *_counts(source))


def scored_size(vocabulary: Vocabulary, ids: np.ndarray, size: Size) -> Size:
    """The size of the scored part of a text: all after its first token, which is only read.

    A word is scored if the first token is only its beginning.

    Args:
        vocabulary: of the tokens.
        ids: [n] tokens of the text.
        size: of the text.

    Returns:
        The size of that part, of n - 1 tokens.

    Example:
        >>> vocabulary = WordVocabulary(("<eos>", "<unk>", "tick"))
        >>> ids = vocabulary.encode("tick tock\\n")
        >>> scored_size(vocabulary, ids, size_of(vocabulary, "tick tock\\n", ids))
        Size(tokens=2, characters=6, words=2, unknown=1)
    """
    beginning = vocabulary.decode(ids[:AROUND])
    first = vocabulary.decode(ids[:1]).rstrip("\ufffd")  # without an incomplete character
    whole, rest = _counts(beginning), _counts(beginning[len(first) :])
    characters, words, unknown = (a - b for a, b in zip(whole, rest, strict=True))
    return Size(
        size.tokens - 1,
        size.characters - characters,
        None if size.words is None else size.words - words,
        None if size.unknown is None else size.unknown - unknown,
    )


def _counts(source: Source) -> tuple[int, int, int]:
    """The numbers of characters, of words and line ends, and of words that are `<unk>`."""
    characters = words = unknown = 0
    for part in whole_lines(source):
        found = words_of(part)
        characters += len(part)
        words += len(found)
        unknown += found.count(UNKNOWN)
    return characters, words, unknown
