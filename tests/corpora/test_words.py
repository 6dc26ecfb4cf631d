from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import Text, Words, WordVocabulary, encode_splits, ptb_text, vocabulary_from
from seqdni.corpora.text import source as source_module
from seqdni.corpora.text import word_numbers
from seqdni.corpora.text import words as words_module
from seqdni.corpora.text.word_numbers import words_of

lines = st.text("ab \n", max_size=40)


def learn(train: str, most: int | None = None) -> WordVocabulary:
    return Words(most).learn(Text("", train, None, None))


def test_the_most_frequent_come_first_and_then_the_alphabet():
    assert learn("b b c a c <unk> b\n").words == ("b", "c", "<eos>", "<unk>", "a")


def test_most():
    assert learn("a a a b b c\n", 3).words == ("a", "b", "<unk>")
    assert learn("a a a <unk> <unk> c\n", 2).words == ("a", "<unk>")
    assert learn("a a a b b <unk>\n", 3).words == ("a", "b", "<unk>")
    with pytest.raises(ValueError, match="most is 1, expected at least 2"):
        Words(1)


def test_only_the_training_split_is_learned():
    vocabulary = Words().learn(Text("", "a\n", "b\n", "c\n"))
    assert vocabulary.words == ("<eos>", "a", "<unk>")
    assert vocabulary.decode(vocabulary.encode("a b\nc")) == "a <unk>\n<unk>"


@given(text=lines, block=st.integers(1, 7))
def test_a_token_a_word_and_a_line(text, block):
    vocabulary = WordVocabulary(("<eos>", "a", "b", "aa", "ab", "<unk>"))
    expected = [
        vocabulary.words.index(word) if word in vocabulary.words else 5
        for word in text.replace("\n", " <eos> ").split()
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        ids = vocabulary.encode(text)
    assert ids.tolist() == expected
    assert vocabulary.encode(vocabulary.decode(ids)).tolist() == expected


any_text = st.text(
    st.sampled_from("ab \t\n\r\x1c\x85\u2028é\0") | st.characters(exclude_categories=()),
    max_size=80,
)


@given(
    text=any_text | st.just("a <eos>\nb <eos> a\n<unk> a\0 abcdefghijklmnopqr abcdefghijklmnop\n"),
    most=st.none() | st.integers(2, 4),
    portion=st.integers(1, 30),
    slots=st.integers(1, 4),
)
def test_words_from_the_table_are_those_of_a_dictionary(text, most, portion, slots):
    """Bytes, a table in which words share slots, and portions: none of them changes an id."""
    found = words_of(text)
    counts = Counter(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "PORTION", portion)
        patch.setattr(word_numbers, "SMALL", 0)
        patch.setattr(word_numbers, "SLOTS", slots)
        vocabulary = learn(text, most)
        ids = vocabulary.encode(text)
    ordered = sorted(counts.keys() - {"<unk>"}, key=lambda word: (-counts[word], word))
    known = [word for word in vocabulary.words if word != "<unk>"]
    assert known == ordered[: len(known)]
    place = {word: k for k, word in enumerate(vocabulary.words)}
    assert ids.tolist() == [place.get(word, vocabulary.unknown) for word in found]
    assert ids.dtype == np.uint16


def test_every_white_space_of_python_is_white_space_of_the_table(monkeypatch):
    monkeypatch.setattr(word_numbers, "SMALL", 0)
    spaces = [chr(c) for c in range(0x110000) if chr(c).isspace()]
    vocabulary = WordVocabulary(("<eos>", "a", "b", "<unk>"))
    for space in spaces:
        expected = [1, 0, 2] if space in "\n\r" else [1, 2]
        assert vocabulary.encode(f"a{space}b").tolist() == expected, hex(ord(space))


@given(text=st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=5))
def test_decode_undoes_encode_for_words_with_one_space_between(text):
    joined = "\n".join(" ".join(words) for words in text)
    vocabulary = WordVocabulary(("a", "b", "c", "<eos>", "<unk>"))
    assert vocabulary.decode(vocabulary.encode(joined)) == joined


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_that_ends_in_eos_has_one(end):
    vocabulary = WordVocabulary(("<eos>", "a", "b", "<unk>"))
    text = end.join(["a <eos>", "", "<eos>", "b <eos> a", "<eos> b <eos> \t", "a<eos>", "<eos>"])
    assert vocabulary.decode(vocabulary.encode(text)) == "a\n\n\nb\na\n\nb\n<unk>\n\n"
    assert vocabulary.encode("a <eos> b <eos>").tolist() == [1, 0, 2, 0]  # lines on one line


def test_types():
    words = tuple(map(str, range(65535)))
    assert WordVocabulary((*words, "<unk>")).encode("0 65534 x").tolist() == [0, 65534, 65535]
    assert WordVocabulary((*words, "<unk>")).dtype == "uint16"
    assert WordVocabulary((*words, "<eos>", "<unk>")).encode("x").dtype == np.uint32


def test_bad_vocabularies():
    with pytest.raises(ValueError, match="a word occurs twice"):
        WordVocabulary(("<unk>", "a", "a"))
    with pytest.raises(ValueError, match="no <unk>"):
        WordVocabulary(("a",))
    with pytest.raises(ValueError, match=r"expected 0\.\.0"):
        WordVocabulary(("<unk>",)).decode([1])


def test_saved_and_made_again():
    vocabulary = learn("tick tock\n")
    assert vocabulary_from(vocabulary.to_json()) == vocabulary


def test_ptb(ptb_dir, tmp_path):
    text = ptb_text(ptb_dir, by_character=False)
    encoded = encode_splits(text, Words(), tmp_path)
    assert len(encoded.vocabulary) == 10_000
    assert {s: size.tokens for s, size in encoded.sizes.items()} == {
        "train": 929_589,
        "valid": 73_760,
        "test": 82_430,
    }
    assert encoded.sizes["test"] == (82_430, 442_423, 82_430, 4_794)
    assert encoded.vocabulary.decode(encoded.test) == text.test
    assert encoded.train.dtype == np.uint16
