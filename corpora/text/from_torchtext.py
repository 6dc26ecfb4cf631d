"""Corpora that torchtext has read, as token ids: its data sets and vocabularies, old and new.

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
from seqdni.corpora.text.words import END, WordVocabulary


def import_torchtext() -> ModuleType:
    """The torchtext that is installed.

    Returns:
        The module.

    Raises:
        CorpusError: there is none, or it does not load with this torch.
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
    """A vocabulary of torchtext with the same ids.

    Args:
        vocab: with ``itos`` (torchtext up to 0.8) or ``get_itos()`` (later); `<unk>` is in it.

    Returns:
        Its words in their order.

    Raises:
        CorpusError: a word occurs twice, or `<unk>` does not.
        ValueError: it is no such vocabulary.

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
    """Splits that torchtext has read, as ids in memory, for :class:`seqdni.corpora.TokenStream`.

    Takes what the language-modelling data sets of torchtext give: of 0.6.0 the data sets and the
    BPTTIterator over them, whose field has the vocabulary; of later ones the iterator over lines,
    strings or lists of words, with `vocab`. There a line's end is `<eos>` where the vocabulary has
    it (once, also where the line ends in it already), else nothing. Words not in the vocabulary
    become `<unk>`.

    Args:
        train: data set or iterator; read once.
        valid: the same, or None.
        test: the same, or None.
        vocab: of torchtext; None takes the one of `train`.
        name: for people and reports.

    Returns:
        The corpus; its sizes are those of the text that the ids stand for.

    Raises:
        CorpusError: a split is empty, or the vocabulary does not suit.
        ValueError: something else was given, or there is no vocabulary.

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
    """An attribute, or None; hasattr is True for all names where 0.6.0's data sets are asked."""
    return getattr(thing, "__dict__", {}).get(name)


def _vocab_of(dataset: Any) -> Any:
    """The vocabulary that a data set of torchtext knows, or None."""
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
