"""Converts data sets and vocabularies of torchtext, old and new, to token ids.

Nothing here needs torchtext itself. Its last version, 0.18, does not load with a current torch;
0.6.0 does.
"""

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.cache import Encoded
from seqdni.corpora.text.characters import checked_ids
from seqdni.corpora.text.size import size_of
from seqdni.corpora.text.word_numbers import END
from seqdni.corpora.text.words import WordVocabulary


def import_torchtext() -> ModuleType:
    """Import the installed torchtext.

    Returns:
        The module.

    Raises:
        CorpusError: torchtext is not installed, or does not load with this torch.
    """
    try:
        return importlib.import_module("torchtext")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"torchtext cannot be imported ({reason}); 0.6.0 loads with a current torch: "
            "pip install torchtext==0.6.0"
        ) from None


def torchtext_vocabulary(vocab: Any) -> WordVocabulary:
    """Convert a vocabulary of torchtext to one with the same ids.

    Args:
        vocab: has ``itos`` (torchtext up to 0.8) or ``get_itos()`` (later), and the word `<unk>`.

    Returns:
        A vocabulary with its words in their order.

    Raises:
        CorpusError: a word occurs twice, or there is no `<unk>`.
        ValueError: it is not a vocabulary of torchtext.

    Example:
        >>> from types import SimpleNamespace
        >>> torchtext_vocabulary(SimpleNamespace(itos=["<unk>", "<eos>", "tick"])).encode("tick\\n")
        array([2, 1], dtype=uint16)
    """
    if hasattr(vocab, "get_itos"):
        words = vocab.get_itos()
    elif hasattr(vocab, "itos"):
        words = vocab.itos
    else:
        raise ValueError(
            f"{type(vocab).__name__} has neither itos nor get_itos(): give torchtext's vocabulary"
        )
    try:
        return WordVocabulary(tuple(words))
    except ValueError as error:
        raise CorpusError(f"torchtext's vocabulary does not suit: {error}") from None


def from_torchtext(
    train: Any, valid: Any = None, test: Any = None, vocab: Any = None, name: str = "torchtext"
) -> Encoded:
    """Convert splits that torchtext has read to ids, for :class:`seqdni.corpora.TokenStream`.

    From torchtext 0.6.0 it takes the language-modelling data sets and the BPTTIterator over them,
    whose field has the vocabulary. From later versions it takes an iterator over lines, which are
    strings or lists of words, together with `vocab`. Then a line end is `<eos>` if the vocabulary
    has this word (once, even if the line already ends in it), else nothing. Unknown words become
    `<unk>`.

    Args:
        train: data set or iterator; read once.
        valid: the same, or None.
        test: the same, or None.
        vocab: of torchtext; None: that of `train`.
        name: for messages and reports.

    Returns:
        The corpus; its sizes are those of the decoded text.

    Raises:
        CorpusError: a split is empty, or the vocabulary cannot be used.
        ValueError: an argument is of another kind, or there is no vocabulary.

    Example:
        >>> from types import SimpleNamespace
        >>> vocab = SimpleNamespace(get_itos=lambda: ["<unk>", "<eos>", "tick", "tock"])
        >>> from_torchtext(iter(["tick tock", "tick tack"]), vocab=vocab).train
        array([2, 3, 1, 2, 0, 1], dtype=uint16)
    """
    train, valid, test = (_own(split, "dataset") or split for split in (train, valid, test))
    vocab = _vocab_of(train) if vocab is None else vocab
    if vocab is None:
        raise ValueError(
            "no vocabulary: give vocab=, or call build_vocab of the field before (torchtext 0.6.0)"
        )
    vocabulary = torchtext_vocabulary(vocab)
    digest = hashlib.sha256(repr(vocabulary.words).encode("utf-8", "surrogatepass"))
    arrays: dict[str, np.ndarray] = {}
    sizes = {}
    for split, given in (("train", train), ("valid", valid), ("test", test)):
        if given is None:
            continue
        ids = arrays[split] = _ids(given, vocabulary)
        if not len(ids):
            raise CorpusError(f"{name}: the {split} split is empty; an iterator can be read once")
        sizes[split] = size_of(vocabulary, vocabulary.decode(ids), ids)
        digest.update(f" {split} {hashlib.sha256(ids.tobytes()).hexdigest()}".encode())
    splits = (arrays["train"], arrays.get("valid"), arrays.get("test"))
    return Encoded(name, digest.hexdigest(), vocabulary, *splits, sizes)


def _own(thing: Any, name: str) -> Any:
    """An attribute, or None. (For data sets of 0.6.0 ``hasattr`` is True with any name.)"""
    return getattr(thing, "__dict__", {}).get(name)


def _vocab_of(dataset: Any) -> Any:
    """The vocabulary of a data set of torchtext, or None."""
    if fields := _own(dataset, "fields"):
        return getattr(fields.get("text"), "vocab", None)
    return dataset.get_vocab() if hasattr(dataset, "get_vocab") else None


def _ids(dataset: Any, vocabulary: WordVocabulary) -> np.ndarray:
    if examples := _own(dataset, "examples"):  # torchtext.datasets of 0.6.0: one, all of the text
        words = chain.from_iterable(example.text for example in examples)
    elif hasattr(dataset, "get_vocab"):  # torchtext.experimental: ids already
        return checked_ids(dataset.data, len(vocabulary)).astype(vocabulary.dtype)
    elif isinstance(dataset, Iterable) and not isinstance(dataset, str):
        words = _words_of_lines(dataset, ends=END in vocabulary.words)
    else:
        raise ValueError(
            f"{type(dataset).__name__} is not a data set of torchtext, nor an iterator over lines"
        )
    return vocabulary.encode_words(words)


def _words_of_lines(lines: Iterable[Any], ends: bool) -> Iterator[str]:
    for line in lines:
        words = line.split() if isinstance(line, str) else list(line)
        yield from words
        if ends and words[-1:] != [END]:
            yield END
