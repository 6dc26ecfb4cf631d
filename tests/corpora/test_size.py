import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import (
    CharVocabulary,
    Size,
    Subwords,
    SubwordVocabulary,
    Text,
    WordVocabulary,
    scored_size,
    size_of,
)
from seqdni.corpora.text import source as source_module

WORDS = WordVocabulary(("<eos>", "<unk>", "tick", "tock"))
CHARACTERS = CharVocabulary.from_text("tick tock\n<eos> unk é")


@pytest.fixture(scope="module")
def pieces() -> SubwordVocabulary:
    return Subwords(280).learn(Text("clock", "tick tock, tick  tack\n" * 20, None, None))


def counted(text: str) -> tuple[int, int]:
    """Characters and words, by hand; no line of the text ends in <eos>."""
    return len(text), len(text.split()) + text.count("\n")


def of(vocabulary, text: str) -> Size:
    return size_of(vocabulary, text, vocabulary.encode(text))


def scored(vocabulary, text: str) -> Size:
    ids = vocabulary.encode(text)
    return scored_size(vocabulary, ids, size_of(vocabulary, text, ids))


@given(text=st.text("ab é\n\t", min_size=1, max_size=40), block=st.integers(1, 7))
def test_counts(pieces, text, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        assert of(pieces, text)[1:3] == counted(text)


def test_reserved_words_are_counted_once(pieces):
    text = "tick <eos>\n<unk> tack <eos>\n\n"
    assert of(pieces, text)[1:] == (len(text), 6, 1)
    assert of(WORDS, text) == (6, len(text), 6, 2)  # tack is not known
    assert of(CHARACTERS, "tick\n") == (5, 5, None, None)


@pytest.mark.parametrize(
    ("text", "characters", "words"),
    [
        ("tick tock", 4, 1),
        ("tick\n", 0, 1),
        ("\ntick", 4, 1),
        ("tick <unk>\n<unk>", 11, 3),
        ("<unk> tick", 4, 1),
    ],
)
def test_what_is_scored_of_words(text, characters, words):
    size = scored(WORDS, text)
    assert (size.tokens, size.words) == (words, words)
    assert size.unknown == text[5:].count("<unk>")


def test_what_is_scored_of_characters():
    assert scored(CHARACTERS, "tick\n") == (4, 4, None, None)


@given(text=st.text("tick oaé\n", min_size=2, max_size=20))
def test_what_is_scored_of_pieces(pieces, text):
    """The first piece is cut off the text by hand: what it decodes to, but for half a character."""
    ids = pieces.encode(text)
    first = pieces.decode(ids[:1]).rstrip("\ufffd")
    assert text.startswith(first)
    assert scored(pieces, text) == (len(ids) - 1, *counted(text[len(first) :]), 0)


def test_the_first_piece_of_a_word_leaves_a_word(pieces):
    for text, expected in (("tockt tick", (9, 2)), ("t tick", (5, 1))):
        assert pieces.decode(pieces.encode(text)[:1]) == "t"
        assert scored(pieces, text)[1:3] == expected


def test_the_same_size_from_ids_of_any_type():
    ids = WORDS.encode("tock tack\n")
    assert size_of(WORDS, "tock tack\n", ids) == size_of(WORDS, "tock tack\n", ids.astype(np.int64))
