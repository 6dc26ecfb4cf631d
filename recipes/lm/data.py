"""The text that recipe ``lm`` reads, its kind of tokens, and the units of its errors."""

from __future__ import annotations

from typing import Any

from seqdni import to_bits, to_perplexity
from seqdni.corpora import (
    Characters,
    Size,
    Subwords,
    Text,
    Tokens,
    Words,
    enwik8_text,
    own_text,
    ptb_lines,
    ptb_text,
    pydoc_text,
    text8_text,
    wikitext_text,
)


def read_corpus(options: Any) -> Text:
    """The text that ``--corpus`` names.

    Args:
        options: of the run.

    Returns:
        Its splits.

    Raises:
        CorpusError: it is missing or damaged, or cannot be downloaded.
    """
    if options.corpus == "pydoc":
        return pydoc_text()
    if options.corpus == "ptb":
        return ptb_text(options.data_dir, by_character=options.tokens == "char")
    if options.corpus == "enwik8":
        return enwik8_text(options.data_dir)
    if options.corpus == "text8":
        return text8_text(options.data_dir)
    if options.corpus == "wikitext-2" or options.corpus == "wikitext-103":
        return wikitext_text(options.corpus, options.data_dir)
    return own_text(options.corpus, options.valid_fraction, options.test_fraction)


def tokens_of(options: Any) -> Tokens:
    """The kind of tokens that ``--tokens`` names.

    Args:
        options: of the run.

    Returns:
        The kind of tokens.
    """
    if options.tokens == "word":
        return Words(options.max_words)
    return Subwords(options.subword_size) if options.tokens == "subword" else Characters()


def prepared(options: Any, text: str) -> str:
    """Convert a text to the form of the run's corpus, so that the run's model can score it.

    Args:
        options: of the run.
        text: as it is in a file.

    Returns:
        For ptb, lines whose words are joined as in this corpus. For enwik8, a character for each
        byte. Otherwise the text unchanged.
    """
    if options.corpus == "enwik8":
        return text.encode().decode("latin-1")
    if options.corpus == "ptb":
        return ptb_lines(text, by_character=options.tokens == "char")
    return text


def unit(options: Any) -> str:
    """The name of the error by which the best model is chosen.

    Args:
        options: of the run.

    Returns:
        ``bpc`` (bits per character), or ``ppl`` (perplexity per word) with ``--tokens word``.
    """
    return "ppl" if options.tokens == "word" else "bpc"


def figures(options: Any, nats: float, size: Size) -> dict[str, float]:
    r"""Convert an error to units of the original text, in which kinds of tokens can be compared.

    The first token of a text is read and not scored. The sum of the nats of all others is divided
    by the number of characters, or of words, in their text, where the end of a line counts as a
    word:

    .. math:: bpc = \frac{nats \cdot tokens}{\ln 2 \cdot characters} \qquad
              ppl = \exp \frac{nats \cdot tokens}{words}

    Args:
        options: of the run.
        nats: mean per scored token.
        size: size of the scored text (``Encoded.scored``, ``scored_size`` of the corpora).

    Returns:
        ``bpc`` for characters; ``ppl`` for words, and ``unk``, the share of them that is `<unk>`;
        all three for subwords. There is no ``ppl`` where the scored text has no word.

    Example:
        >>> from types import SimpleNamespace
        >>> size = Size(tokens=3, characters=12, words=2, unknown=1)
        >>> figures(SimpleNamespace(tokens="subword"), 4.0, size)
        {'bpc': 1.4426950408889634, 'ppl': 403.4287934927351, 'unk': 0.5}
    """
    found = {}
    if options.tokens != "word":
        found["bpc"] = to_bits(nats * size.tokens / size.characters)
    if options.tokens != "char" and size.words:
        assert size.unknown is not None
        found["ppl"] = to_perplexity(nats * size.tokens / size.words)
        found["unk"] = size.unknown / size.words
    return found
