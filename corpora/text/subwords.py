"""Pieces of words as token ids, by a sentencepiece model that is learned from the training split.

Nothing is normalised: decoding gives the text that was encoded, except that the character U+2581
becomes a space, because sentencepiece writes it for a space. A line end is a token of its own.
"""

import base64
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from torch import Tensor

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.characters import checked_ids
from seqdni.corpora.text.source import Source, whole_lines
from seqdni.corpora.text.text import Text

LEARN_FROM = 20_000_000  # characters: the beginning of the training split (half a gigabyte)
SPACE = "\u2581"  # the character that sentencepiece writes for a space
SENTENCE = 1000  # characters; longer lines are split for learning (sentencepiece would skip them)


@dataclass(frozen=True)
class Subwords:
    """Tokens are pieces of words. A character for which there is no piece is encoded as its bytes.

    The same text and size give the same model.

    Args:
        size: of the vocabulary, smaller where the text has fewer pieces; 256 pieces are bytes.
        model: the kind of model of sentencepiece.

    Raises:
        ValueError: `size` is too small for pieces, or too large.

    Example:
        >>> vocabulary = Subwords(280).learn(Text("clock", "tick tock\\n" * 9, None, None))
        >>> ids = vocabulary.encode("tock tack\\n")
        >>> len(vocabulary) <= 280, vocabulary.decode(ids)
        (True, 'tock tack\\n')
    """

    size: int = 4000
    model: Literal["unigram", "bpe"] = "unigram"

    def __post_init__(self):
        if not 260 <= self.size <= 1 << 16:
            raise ValueError(
                f"size is {self.size}, expected 260..65536: 256 bytes, two marks, and some pieces"
            )

    def learn(self, text: Text) -> "SubwordVocabulary":
        """The vocabulary of a corpus, from its training split alone.

        Args:
            text: the corpus.

        Returns:
            The pieces.

        Raises:
            CorpusError: sentencepiece cannot learn so many pieces from the text.
        """
        model, read = io.BytesIO(), _Sentences(text.train)
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=read,
                model_writer=model,
                model_type=self.model,
                vocab_size=self.size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                input_sentence_size=0,
                num_threads=1,
                unk_id=0,
                eos_id=1,
                bos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        except (RuntimeError, SystemError) as error:
            if read.error is not None:
                raise read.error from None
            reason = " ".join(str(error).split())
            raise CorpusError(
                f"{text.name}: sentencepiece cannot learn {self.size} pieces ({reason}); "
                "use another size, a longer text, or characters"
            ) from None
        return SubwordVocabulary(model.getvalue())


@dataclass(frozen=True)
class SubwordVocabulary:
    """The pieces of a sentencepiece model.

    Args:
        model: the bytes of a saved model, in which piece 0 is unknown and piece 1 a line end.

    Raises:
        CorpusError: the bytes are not such a model.

    Example:
        >>> SubwordVocabulary(b"nothing")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: 7 bytes are no sentencepiece model; use Subwords().learn
    """

    model: bytes = field(repr=False)

    def __post_init__(self):
        if self._processor.eos_id() != 1:
            raise CorpusError("the sentencepiece model has no eos_id=1; use Subwords().learn")

    @cached_property
    def _processor(self) -> Any:
        processor = _sentencepiece().SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
            if len(processor):
                return processor
        except RuntimeError:
            pass
        raise CorpusError(
            f"{len(self.model)} bytes are no sentencepiece model; use Subwords().learn"
        )

    def __len__(self) -> int:
        return len(self._processor)

    def encode(self, text: str) -> np.ndarray:
        """The ids of the pieces of `text` and of its line ends.

        Args:
            text: any.

        Returns:
            [n] uint16 ids.
        """
        parts = list(self.encode_source(text))
        return np.concatenate(parts) if parts else np.zeros(0, np.uint16)

    def encode_source(self, source: Source) -> Iterator[np.ndarray]:
        """The ids of a text's pieces, some megabytes of text at a time.

        Args:
            source: the text.

        Returns:
            Arrays of ids.

        Raises:
            CorpusError: the text cannot be read.
        """
        inside = False  # whether a line began in the part before
        for part in whole_lines(source):
            first, *others = part.split("\n")
            lines = [first if inside else _spaced(first), *map(_spaced, others)]
            ids: list[int] = []
            for line in self._processor.encode(lines):
                ids += line
                ids.append(1)
            yield np.array(ids[:-1], dtype=np.uint16)
            inside = not part.endswith("\n")

    def decode(self, ids: Sequence[int] | np.ndarray | Tensor) -> str:
        """The text of `ids`.

        Args:
            ids: [n], each in 0..len - 1.

        Returns:
            The text; U+FFFD where bytes make no character.

        Raises:
            ValueError: an id is out of range.
        """
        array = checked_ids(ids, len(self))
        ends = np.flatnonzero(array == 1)
        lines = np.split(array, ends)
        lines[1:] = [line[1:] for line in lines[1:]]
        decoded = (self._processor.decode(line.tolist()) for line in lines)
        return "\n".join(line.removeprefix(" ") for line in decoded)

    def to_json(self) -> dict[str, Any]:
        """Primitives from which :func:`seqdni.corpora.vocabulary_from` makes it again."""
        return {"tokens": "subword", "model": base64.b64encode(self.model).decode()}


def _spaced(line: str) -> str:
    """A line with a space before it, so that its first word has the same pieces as elsewhere."""
    return f" {line}" if line else ""


class _Sentences:
    """The sentences of a text. An error in reading is kept, because sentencepiece hides it."""

    def __init__(self, source: Source):
        self.error: CorpusError | None = None
        self._sentences = _sentences(source)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._sentences)
        except CorpusError as error:
            self.error = error
            raise


def _sentences(source: Source) -> Iterator[str]:
    """Lines for sentencepiece to learn from, long ones in parts, up to `LEARN_FROM` characters."""
    left = LEARN_FROM
    for part in whole_lines(source):
        for line in map(_spaced, part[:left].split("\n")):
            while len(line) > SENTENCE:
                end = line.rfind(" ", 1, SENTENCE)
                end = SENTENCE if end < 0 else end
                yield line[:end]
                line = line[end:]
            if line:
                yield line
        left -= len(part)
        if left <= 0:
            return


def _sentencepiece() -> Any:
    try:
        return importlib.import_module("sentencepiece")
    except ImportError as error:
        raise CorpusError(
            f"subwords need sentencepiece, which cannot be imported ({error}); "
            "install it: pip install sentencepiece"
        ) from None
