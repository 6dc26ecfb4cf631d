"""Characters as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from corpora.errors import CorpusError


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
        symbol_codes, codes = _code_points(self.symbols), _code_points(text)
        unknown = len(self)
        table = np.full(0x110000, unknown, dtype=np.min_scalar_type(unknown))
        table[symbol_codes] = np.arange(len(self))
        ids = table[codes]
        if (ids == unknown).any():
            at = int((ids == unknown).argmax())
            raise CorpusError(
                f"character {text[at]!r} at position {at} is not among the {len(self)} symbols of "
                "the vocabulary; remove it, or build the vocabulary from text that contains it"
            )
        return ids.astype(np.min_scalar_type(max(len(self) - 1, 0)), copy=False)

    def decode(self, ids: Sequence[int] | np.ndarray | Tensor) -> str:
        """The text of `ids`.

        Args:
            ids: [n], each in 0..len - 1.

        Returns:
            n characters.

        Raises:
            ValueError: an id is out of range.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(
                f"ids are in {ids.min()}..{ids.max()}, expected 0..{len(self) - 1}: "
                "they are of another vocabulary"
            )
        return _code_points(self.symbols)[ids].tobytes().decode("utf-32-le", "surrogatepass")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
