import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import (
    CorpusError,
    Subwords,
    SubwordVocabulary,
    Text,
    encode_splits,
    ptb_text,
    pydoc_text,
    vocabulary_from,
)
from seqdni.corpora.text import source as source_module
from seqdni.corpora.text import subwords as subwords_module

CLOCK = Text("clock", "tick tock, tick  tack\n" * 20, None, None)
any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0\u2581"))


@pytest.fixture(scope="module")
def clock() -> SubwordVocabulary:
    return Subwords(280).learn(CLOCK)


@given(text=any_text | st.text("tick oak\n\t ", max_size=40))
def test_decode_undoes_encode(clock, text):
    ids = clock.encode(text)
    assert ids.dtype == np.uint16
    assert clock.decode(ids) == text
    assert (ids == 1).sum() == text.count("\n")
    assert 0 not in ids


@given(text=st.text("tick \n", max_size=60), block=st.integers(1, 7))
def test_long_lines_cut_before_spaces_are_the_same_text(clock, text, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        patch.setattr(source_module, "LONGEST_WORD", 5)
        try:
            ids = clock.encode(text)
        except CorpusError:
            return  # a word of more than five characters
    assert clock.decode(ids) == text


def test_the_same_text_gives_the_same_model(clock):
    assert Subwords(280).learn(CLOCK).model == clock.model
    assert Subwords(280, "bpe").learn(CLOCK).model != clock.model


def test_a_line_longer_than_sentencepiece_takes_is_learned_from():
    text = Text("line", "tick tock " * 2000, None, None)
    assert len(Subwords(280).learn(text).encode("tick tock")) < len("tick tock")


def test_only_the_beginning_of_a_long_text_is_learned_from(monkeypatch):
    text = Text("clock", "tick tock\n" * 20 + "zzzz zzzz\n" * 20, None, None)
    assert len(Subwords(280).learn(text).encode("zzzz")) < 4
    monkeypatch.setattr(subwords_module, "LEARN_FROM", 200)
    assert len(Subwords(280).learn(text).encode("zzzz")) == 5  # bytes


@pytest.mark.parametrize("size", [259, 65537])
def test_size_limits(size):
    with pytest.raises(ValueError, match=rf"size is {size}, expected 260\.\.65536"):
        Subwords(size)


def test_too_many_characters_for_the_size():
    text = Text("symbols", "".join(map(chr, range(0x4E00, 0x4F00))), None, None)
    with pytest.raises(CorpusError, match="symbols: sentencepiece cannot learn 260 pieces"):
        Subwords(260).learn(text)


def test_saved_and_made_again(clock):
    again = vocabulary_from(clock.to_json())
    assert again == clock
    assert again.decode(clock.encode("tock tick\n")) == "tock tick\n"
    assert len(repr(clock)) < 100


def test_sentencepiece_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(CorpusError, match="pip install sentencepiece"):
        Subwords(280).learn(CLOCK)


def test_pydoc_has_fewer_tokens_than_characters(tmp_path):
    text = pydoc_text()
    encoded = encode_splits(text._replace(train=text.train[:100_000]), Subwords(1000), tmp_path)
    assert encoded.vocabulary.decode(encoded.test) == text.test
    size = encoded.sizes["test"]
    assert size.characters == len(text.test)
    assert size.words == len(text.test.split()) + text.test.count("\n")
    assert size.tokens < 0.6 * size.characters


def test_ptb(ptb_dir, tmp_path):
    text = ptb_text(ptb_dir, by_character=False)
    # The training split would take seconds; the counts are of the original text all the same.
    encoded = encode_splits(text._replace(train=text.valid), Subwords(2000), tmp_path)
    assert len(encoded.vocabulary) == 2000
    assert encoded.sizes["test"][1:] == (442_423, 82_430, 4_794)
    assert encoded.sizes["valid"][1:] == (393_042, 73_760, 3_485)
    assert encoded.vocabulary.decode(encoded.test) == text.test
