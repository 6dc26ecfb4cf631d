"""The numbers of the words of a text, many words at a time.

To look up one word in a dictionary of Python takes a few hundred nanoseconds: the word has to be
made a string, and the memory is waited for. Here the words of a portion of text stay bytes, and
NumPy looks up all of them at once in a table. What the table does not have, the dictionary finds.

Shapes: n bytes of a portion, W words of it.
"""

import re
from collections.abc import Callable
from functools import cached_property

import numpy as np

from seqdni.corpora.text.source import newlines

END = "<eos>"
ENDED = re.compile(rf"(?<!\S){END}[^\S\n]*\n")  # the end of a line, written out in the text as well
SMALL = 1 << 12  # characters; a text up to this length is not worth the table
SLOTS = 19  # bits of the number of a slot in the table
LONGEST = 16  # bytes of a word in the table; longer ones are for the dictionary
SPACE = np.uint64(0x2020202020202020)  # eight spaces, which no word has
IS_SPACE = bytes(c < 128 and chr(c).isspace() for c in range(256))  # for each byte 1 or 0
OTHER_SPACES = [chr(c) for c in range(128, 0x3001) if chr(c).isspace()]  # of several bytes each
# Masks of those bytes that belong to a word of each length: of its first eight, and the next eight.
FIRST = np.array([(1 << 8 * min(k, 8)) - 1 for k in range(LONGEST + 1)], np.uint64)
NEXT = np.array([(1 << 8 * max(k - 8, 0)) - 1 for k in range(LONGEST + 1)], np.uint64)
MIX = tuple(np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))


class WordNumbers:
    """A table of words and their numbers, in front of a dictionary.

    Args:
        number_of: the number of a word, for words that are not in the table.

    Example:
        >>> numbers = WordNumbers({"tick": 3, "tock": 5, "<eos>": 0}.__getitem__)
        >>> numbers.of("tick tock\\n")
        array([3, 5, 0], dtype=uint32)
    """

    def __init__(self, number_of: Callable[[str], int]):
        self._number_of = number_of

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first eight bytes of the word in each slot, the next eight, and its number."""
        slots = 1 << SLOTS
        return np.full(slots, SPACE), np.full(slots, SPACE), np.zeros(slots, np.uint32)

    def of(self, text: str) -> np.ndarray:
        """The numbers of the words of a text, as :func:`words_of` has them.

        Args:
            text: any text.

        Returns:
            [W] numbers, uint32.
        """
        text = with_ends(text)
        if len(text) <= SMALL or any(space in text for space in OTHER_SPACES):
            return np.fromiter(map(self._number_of, text.split()), np.uint32)
        content = b" " + text.encode("utf-8", "surrogatepass") + 2 * LONGEST * b" "
        space_n = np.frombuffer(content.translate(IS_SPACE), np.bool_)
        edges = np.flatnonzero(space_n[1:] != space_n[:-1]) + 1
        begin_W, end_W = edges[0::2], edges[1::2]
        low_W, high_W, slot_W = _keys(content, begin_W, end_W - begin_W)
        low, high, number = self._table
        numbers_W = number[slot_W]
        short_W = end_W - begin_W <= LONGEST
        found_W = (low[slot_W] == low_W) & (high[slot_W] == high_W) & short_W
        other = np.flatnonzero(~found_W)
        spans = zip(begin_W[other].tolist(), end_W[other].tolist(), strict=True)
        joined = b" ".join([content[begin:end] for begin, end in spans])
        words = joined.decode("utf-8", "surrogatepass").split()
        numbers_W[other] = np.fromiter(map(self._number_of, words), np.uint32, len(other))
        new = other[short_W[other] & (low[slot_W[other]] == SPACE)]
        slots, first = np.unique(slot_W[new], return_index=True)
        for column, values_W in ((low, low_W), (high, high_W), (number, numbers_W)):
            column[slots] = values_W[new[first]]
        return numbers_W


def _keys(
    content: bytes, begin_W: np.ndarray, length_W: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first and the next eight bytes of each word, filled up with spaces, and its slot."""
    eights_n = np.ndarray((len(content) - 7,), "<u8", content, strides=(1,))
    low_W, high_W = eights_n[begin_W], eights_n[begin_W + 8]
    for part_W, own in ((low_W, FIRST), (high_W, NEXT)):
        mask_W = own[np.minimum(length_W, LONGEST)]
        part_W &= mask_W
        part_W |= SPACE & ~mask_W
    mixed_W = (low_W * MIX[0] ^ high_W * MIX[1]) * MIX[2]
    return low_W, high_W, mixed_W >> np.uint64(64 - SLOTS)


def with_ends(text: str) -> str:
    """A text in which each line end is the word `<eos>`; a line that ends in `<eos>` has one.

    Args:
        text: any text; a line end is ``\\n``, ``\\r\\n`` or ``\\r``.

    Returns:
        A text whose words are between white space.

    Example:
        >>> with_ends("tick <eos>\\ntock\\n")
        'tick  <eos> tock <eos> '
    """
    text = newlines(text)
    if END in text:
        text = ENDED.sub("\n", text)
    return text.replace("\n", f" {END} ")


def words_of(text: str) -> list[str]:
    """The words of a text, with `<eos>` for each line end; a line that ends in `<eos>` has one.

    Args:
        text: any text; a line end is ``\\n``, ``\\r\\n`` or ``\\r``.

    Returns:
        The words.

    Example:
        >>> words_of("tick tock\\n\\ntick <eos>\\n")
        ['tick', 'tock', '<eos>', '<eos>', 'tick', '<eos>']
    """
    return with_ends(text).split()
