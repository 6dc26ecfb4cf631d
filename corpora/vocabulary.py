"""What the kinds of tokens have in common."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from corpora.characters import Characters, CharVocabulary
from corpora.errors import CorpusError
from corpora.source import Source
from corpora.subwords import Subwords, SubwordVocabulary
from corpora.words import Words, WordVocabulary

Tokens = Characters | Words | Subwords
"""A kind of tokens; each has ``learn(text)``, which returns a vocabulary."""


@runtime_checkable
class Vocabulary(Protocol):
    """Text to ids and back."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...

    def encode_source(self, source: Source) -> Iterator[np.ndarray]: ...

    def decode(self, ids: Sequence[int] | np.ndarray | Tensor) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


def vocabulary_from(saved: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that was saved.

    Args:
        saved: what its ``to_json`` returned.

    Returns:
        A vocabulary equal to it.

    Raises:
        CorpusError: it is of no known kind, or damaged; or sentencepiece is missing.

    Example:
        >>> vocabulary_from({"tokens": "char", "symbols": "ehlo"}).decode([1, 3])
        'ho'
    """
    try:
        if saved["tokens"] == "char":
            return CharVocabulary("".join(saved["symbols"]))
        if saved["tokens"] == "word":
            return WordVocabulary(tuple(saved["words"]))
        if saved["tokens"] == "subword":
            return SubwordVocabulary(base64.b64decode(saved["model"], validate=True))
    except CorpusError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"the saved vocabulary is damaged: {error!r}; save it again") from None
    raise CorpusError(f"tokens are {saved['tokens']!r}, expected 'char', 'word' or 'subword'")
