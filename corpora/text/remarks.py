"""Notes about your own text that you need in order to compare errors on it with others."""

import re
from collections.abc import Iterator

from seqdni.corpora.text.characters import Characters
from seqdni.corpora.text.source import Source, blocks
from seqdni.corpora.text.subwords import SPACE, Subwords
from seqdni.corpora.text.text import Text
from seqdni.corpora.text.vocabulary import Tokens
from seqdni.corpora.text.word_numbers import END, ENDED
from seqdni.corpora.text.words import UNKNOWN

TAIL = 64  # characters at the end of a block that are searched again with the next
NAMED = 3  # largest number of left-out files whose names are shown


def remarks(text: Text, tokens: Tokens) -> Iterator[str]:
    """Notes on all that changes the meaning of an error: files left out, reserved symbols.

    Args:
        text: the corpus.
        tokens: kind of tokens.

    Yields:
        Sentences without a full stop.

    Raises:
        CorpusError: the text cannot be read.

    Example:
        >>> list(remarks(Text("clock", "tick <eos>\\ntock <eos>\\n", None, None), Characters()))
        ['clock: 2 lines end in <eos>, 5 characters each that are easy to predict; \
remove them before you compare the figure with that of another text']
    """
    if text.left_out:
        names = ", ".join(text.left_out[:NAMED])
        more = f" and {len(text.left_out) - NAMED} more" if len(text.left_out) > NAMED else ""
        yield f"{text.name}: not read: {names}{more}"
    by_character = isinstance(tokens, Characters)
    remove = "that are easy to predict; remove them before you compare the figure with that of"
    for split, source in text.splits().items():
        place = f"{text.name}, {split}" if len(text.splits()) > 1 else text.name
        if ended := _occurrences(source, ENDED):
            yield f"{place}: {ended} lines end in {END}, " + (
                f"{len(END)} characters each {remove} another text"
                if by_character
                else "which is counted once, as the line's end"
            )
        if by_character and (unknown := _occurrences(source, re.compile(UNKNOWN))):
            yield (
                f"{place}: {UNKNOWN} stands there {unknown} times, {len(UNKNOWN)} characters each "
                f"{remove} a text without them"
            )
        if isinstance(tokens, Subwords) and (spaces := _occurrences(source, re.compile(SPACE))):
            yield (
                f"{place}: the character U+2581 stands there {spaces} times and is read as a space,"
                " which sentencepiece writes so; was the text cut into pieces before? "
                "Give the original"
            )


def _occurrences(source: Source, pattern: re.Pattern[str]) -> int:
    found, rest = 0, ""
    for block in blocks(source):
        text, done = rest + block, 0
        for match in pattern.finditer(text):
            found, done = found + 1, match.end()
        rest = text[max(done, len(text) - TAIL) :]
    return found
