"""Words as token ids, with `<eos>` at the end of each line and `<unk>` for unknown words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
from torch import Tensor

from seqdni.corpora.text.characters import checked_ids
from seqdni.corpora.text.source import Source, whole_lines
from seqdni.corpora.text.text import Text
from seqdni.corpora.text.word_numbers import END, WordNumbers

UNKNOWN = "<unk>"
PORTION = 1 << 17  # characters whose words are looked up at a time: they fit into a cache


@dataclass(frozen=True)
class Words:
    """Tokens are the words between white space, and `<eos>` for each line end.

    A word `<eos>` or `<unk>` in the text is the same token. A line that ends in `<eos>` has one of
    them and not two.

    Args:
        most: size of the vocabulary: the most frequent words and `<unk>`; None: all words.

    Raises:
        ValueError: `most` < 2.

    Example:
        >>> Words().learn(Text("clock", "tick tock\\ntick tack\\n", None, None)).words
        ('<eos>', 'tick', 'tack', 'tock', '<unk>')
    """

    most: int | None = None

    def __post_init__(self):
        if self.most is not None and self.most < 2:
            raise ValueError(f"most is {self.most}, expected at least 2: a word and {UNKNOWN}")

    def learn(self, text: Text) -> "WordVocabulary":
        """The vocabulary of a corpus, from its training split alone.

        Args:
            text: the corpus.

        Returns:
            Its words, the most frequent first. `<unk>` is last if the text does not have it.
        """
        first_seen = _InOrder()
        numbers, counts_N = WordNumbers(first_seen.__getitem__), np.zeros(0, np.int64)
        for part in _portions(text.train):
            now_N = np.bincount(numbers.of(part), minlength=len(counts_N))
            now_N[: len(counts_N)] += counts_N
            counts_N = now_N
        counts = dict(zip(first_seen, counts_N.tolist(), strict=True))
        words = sorted(sorted(counts), key=counts.__getitem__, reverse=True)  # ties stay sorted
        if self.most is not None:
            words = words[: self.most]
        if UNKNOWN not in words:
            words = [*words[: None if self.most is None else self.most - 1], UNKNOWN]
        return WordVocabulary(tuple(words))


@dataclass(frozen=True)
class WordVocabulary:
    """Words, `<unk>` among them; a word's id is its place.

    Args:
        words: each once.

    Raises:
        ValueError: one occurs twice, or there is no `<unk>`.

    Example:
        >>> vocabulary = WordVocabulary(("<eos>", "<unk>", "tick"))
        >>> vocabulary.encode("tick tack\\ntick\\n")
        array([2, 1, 0, 2, 0], dtype=uint16)
        >>> vocabulary.decode([2, 1, 0, 2, 0])
        'tick <unk>\\ntick\\n'
    """

    words: tuple[str, ...]

    def __post_init__(self):
        if len(set(self.words)) != len(self.words):
            raise ValueError("a word occurs twice in the vocabulary; use Words().learn")
        if UNKNOWN not in self.words:
            raise ValueError(f"there is no {UNKNOWN} in the vocabulary; add it")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _numbers(self) -> WordNumbers:
        return WordNumbers(_WithUnknown(self._ids).__getitem__)

    @property
    def unknown(self) -> int:
        """The id of `<unk>`."""
        return self._ids[UNKNOWN]

    @property
    def dtype(self) -> str:
        """The type of its ids."""
        return "uint16" if len(self) <= 1 << 16 else "uint32"

    def encode(self, text: str) -> np.ndarray:
        """The ids of the words of `text` and of its line ends.

        Args:
            text: any text; unknown words become `<unk>`.

        Returns:
            [n] ids, uint16 if the vocabulary is small enough for that.
        """
        parts = list(self.encode_source(text))
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def encode_source(self, source: Source) -> Iterator[np.ndarray]:
        """The ids of a text's words, some megabytes of text at a time.

        Args:
            source: the text.

        Returns:
            Arrays of ids.

        Raises:
            CorpusError: the text cannot be read, or has no white space between words.
        """
        for part in _portions(source):
            yield self._numbers.of(part).astype(self.dtype)

    def encode_words(self, words: Iterable[str]) -> np.ndarray:
        """The ids of words.

        Args:
            words: n words, with `<eos>` for a line end; unknown words become `<unk>`.

        Returns:
            [n] ids.
        """
        ids = map(self._ids.get, words, repeat(self.unknown))
        return np.fromiter(ids, self.dtype)

    def decode(self, ids: Sequence[int] | np.ndarray | Tensor) -> str:
        """The text of `ids`: words with spaces between them, and line ends for `<eos>`.

        Args:
            ids: [n], each in 0..len - 1.

        Returns:
            The text.

        Raises:
            ValueError: an id is out of range.
        """
        words = (self.words[i] for i in checked_ids(ids, len(self)))
        text = " ".join("\n" if word == END else word for word in words)
        return text.replace(" \n", "\n").replace("\n ", "\n")

    def to_json(self) -> dict[str, Any]:
        """Primitives from which :func:`seqdni.corpora.vocabulary_from` makes it again."""
        return {"tokens": "word", "words": list(self.words)}


class _InOrder(dict[str, int]):
    """The number of each word, in the order in which the words are first asked for."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class _WithUnknown(dict[str, int]):
    """The ids of a vocabulary; any other word has the id of `<unk>`."""

    def __missing__(self, word: str) -> int:
        return self[UNKNOWN]


def _portions(source: Source) -> Iterator[str]:
    """A text in portions of some thousand lines."""
    for part in whole_lines(source):
        begin = 0
        while begin < len(part):
            end = part.find("\n", begin + PORTION) + 1 or len(part)
            yield part[begin:end]
            begin = end
