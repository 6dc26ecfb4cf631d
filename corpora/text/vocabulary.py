"""The interface of all vocabularies, and how they are saved and read."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.characters import Characters, CharVocabulary
from seqdni.corpora.text.source import Source
from seqdni.corpora.text.subwords import Subwords, SubwordVocabulary
from seqdni.corpora.text.text import Text
from seqdni.corpora.text.words import Words, WordVocabulary


@runtime_checkable
class Vocabulary(Protocol):
    """Converts text to ids and back."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...

    def encode_source(self, source: Source) -> Iterator[np.ndarray]: ...

    def decode(self, ids: Sequence[int] | np.ndarray | Tensor) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class KnownVocabulary:
    """Tokens of an existing vocabulary, for which nothing is learned from the text.

    Args:
        vocabulary: learned from another text.

    Example:
        >>> tokens = KnownVocabulary(CharVocabulary("ehlo"))
        >>> tokens.learn(Text("greeting", "hole", None, None)).symbols
        'ehlo'
    """

    vocabulary: Vocabulary = field(repr=False)
    digest: str = field(init=False)  # for the name of the folder in the cache

    def __post_init__(self):
        content = json.dumps(self.vocabulary.to_json()).encode()
        object.__setattr__(self, "digest", hashlib.sha256(content).hexdigest())

    def learn(self, text: Text) -> Vocabulary:
        """Return the known vocabulary.

        Args:
            text: the corpus, which is not read. If it has other tokens, encoding it fails.

        Returns:
            The vocabulary.
        """
        del text
        return self.vocabulary


Tokens = Characters | Words | Subwords | KnownVocabulary
"""A kind of tokens; each has ``learn(text)``, which returns a vocabulary."""


def vocabulary_from(saved: Mapping[str, Any]) -> Vocabulary:
    """Make a vocabulary from its saved form.

    Args:
        saved: what its ``to_json`` returned.

    Returns:
        A vocabulary equal to the saved one.

    Raises:
        CorpusError: the kind is not known, the content is damaged, or sentencepiece is missing.

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
