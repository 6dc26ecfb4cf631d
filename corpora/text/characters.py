"""Characters as token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.source import Source, blocks
from seqdni.corpora.text.text import Text

CODE_POINTS = 0x110000
STAND_INS = "\ufffd?*_ "  # the first of these that is known stands for unknown characters


@dataclass(frozen=True)
class Characters:
    """Tokens are characters. The vocabulary has those of all splits, so that none is unknown.

    Example:
        >>> Characters().learn(Text("greeting", "hello", "hole", None)).symbols
        'ehlo'
    """

    def learn(self, text: Text) -> "CharVocabulary":
        """The vocabulary of a corpus, in one pass over all of its splits.

        Args:
            text: the corpus.

        Returns:
            Its characters.
        """
        seen = np.zeros(CODE_POINTS, dtype=np.bool_)
        for source in text.splits().values():
            for block in blocks(source):
                seen[_code_points(block)] = True
        return CharVocabulary(_text_of(np.flatnonzero(seen)))


@dataclass(frozen=True)
class CharVocabulary:
    """The characters of a corpus, in code point order; a character's id is its place.

    Args:
        symbols: the characters, each once, ascending.

    Raises:
        ValueError: `symbols` is not strictly ascending.

    Example:
        >>> vocabulary = CharVocabulary.from_text("hello")
        >>> vocabulary.symbols, len(vocabulary)
        ('ehlo', 4)
        >>> vocabulary.encode("hole")
        array([1, 3, 2, 0], dtype=uint8)
        >>> vocabulary.decode([1, 3, 2, 0])
        'hole'
    """

    symbols: str

    def __post_init__(self):
        if list(self.symbols) != sorted(set(self.symbols)):
            raise ValueError(
                f"symbols {self.symbols[:50]!r} are not strictly ascending: use from_text"
            )

    @classmethod
    def from_text(cls, *texts: str) -> "CharVocabulary":
        """The vocabulary of all characters that occur in any of `texts`."""
        return cls("".join(sorted(set().union(*texts))))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """The ids of the characters of `text`.

        Args:
            text: of n characters.

        Returns:
            [n] ids in the smallest unsigned type that holds the vocabulary (uint8 up to 256).

        Raises:
            CorpusError: a character is not in the vocabulary.
        """
        parts = list(self.encode_source(text))
        return np.concatenate(parts) if parts else np.zeros(0, self._dtype)

    def encode_source(self, source: Source) -> Iterator[np.ndarray]:
        """The ids of a text's characters, block by block.

        Args:
            source: the text.

        Returns:
            Arrays of ids.

        Raises:
            CorpusError: a character is not in the vocabulary, or the text cannot be read.
        """
        unknown, done = len(self), 0
        table = np.full(CODE_POINTS, unknown, dtype=np.min_scalar_type(unknown))
        table[_code_points(self.symbols)] = np.arange(len(self))
        for text in blocks(source):
            ids = table[_code_points(text)]
            if (strange := ids == unknown).any():
                at = int(strange.argmax())
                raise CorpusError(
                    f"character {text[at]!r} at position {done + at} is not among the {len(self)} "
                    "symbols of the vocabulary; remove it, or build the vocabulary from text that "
                    "contains it"
                )
            yield ids.astype(self._dtype, copy=False)
            done += len(text)

    @property
    def stand_in(self) -> str:
        """The symbol that :meth:`replaced` puts in place of unknown characters."""
        return next((symbol for symbol in STAND_INS if symbol in self.symbols), self.symbols[0])

    def replaced(self, text: str) -> tuple[str, int]:
        """Replace the characters of a text that the vocabulary does not have.

        Args:
            text: any text.

        Returns:
            The text with `stand_in` in place of each such character, and how many there were.

        Example:
            >>> CharVocabulary.from_text("hello?").replaced("hallo")
            ('h?llo', 1)
        """
        strange = set(text) - set(self.symbols)
        known = text.translate({ord(symbol): self.stand_in for symbol in strange})
        return known, sum(map(text.count, strange))

    @property
    def _dtype(self) -> np.dtype:
        return np.min_scalar_type(max(len(self) - 1, 0))

    def decode(self, ids: Sequence[int] | np.ndarray | Tensor) -> str:
        """The text of `ids`.

        Args:
            ids: [n], each in 0..len - 1.

        Returns:
            n characters.

        Raises:
            ValueError: an id is out of range.
        """
        return _text_of(_code_points(self.symbols)[checked_ids(ids, len(self))])

    def to_json(self) -> dict[str, Any]:
        """Primitives from which :func:`seqdni.corpora.vocabulary_from` makes it again."""
        return {"tokens": "char", "symbols": self.symbols}


def checked_ids(ids: Sequence[int] | np.ndarray | Tensor, size: int) -> np.ndarray:
    """Convert ids to an array, and refuse those that are out of range.

    Args:
        ids: [n].
        size: of their vocabulary.

    Returns:
        [n] int64.

    Raises:
        ValueError: an id is not in 0..size - 1.
    """
    array = np.asarray(ids, dtype=np.int64)
    if array.size and not 0 <= array.min() <= array.max() < size:
        raise ValueError(
            f"ids are in {array.min()}..{array.max()}, expected 0..{size - 1}: "
            "they are of another vocabulary"
        )
    return array


def _code_points(text: str) -> np.ndarray:
    try:
        return np.frombuffer(text.encode("latin-1"), dtype=np.uint8)  # a quarter of the bytes
    except UnicodeEncodeError:
        return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _text_of(code_points: np.ndarray) -> str:
    return code_points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
