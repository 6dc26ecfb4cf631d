import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import CharVocabulary, CorpusError

any_text = st.text(st.characters())  # every code point, lone surrogates too


@given(any_text)
def test_decode_undoes_encode(text):
    vocabulary = CharVocabulary.from_text(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(any_text)
def test_ids_are_places_among_the_sorted_symbols(text):
    vocabulary = CharVocabulary.from_text(text)
    order = sorted(set(text))
    assert vocabulary.encode(text).tolist() == [order.index(symbol) for symbol in text]


@pytest.mark.parametrize(
    ("types", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")]
)
def test_smallest_type(types, dtype):
    symbols = "".join(map(chr, range(types)))
    ids = CharVocabulary(symbols).encode(symbols)
    assert ids.dtype == dtype
    assert np.array_equal(ids, np.arange(types))


def test_from_several_texts():
    assert CharVocabulary.from_text("cab", "", "bad").symbols == "abcd"
    assert len(CharVocabulary.from_text("cab", "bad")) == 4


@pytest.mark.parametrize("types", [3, 256])
@pytest.mark.parametrize("stranger", ["é", "\U0010ffff"])
def test_unknown_character(types, stranger):
    symbols = "".join(map(chr, range(1000, 1000 + types)))
    with pytest.raises(CorpusError, match="at position 2 is not among") as caught:
        CharVocabulary(symbols).encode(symbols[:2] + stranger)
    assert repr(stranger) in str(caught.value)


def test_unknown_character_says_where():
    with pytest.raises(CorpusError, match="character '!' at position 3 is not among the 4 symbols"):
        CharVocabulary("ehlo").encode("hel!o")


@pytest.mark.parametrize("symbols", ["ba", "aa"])
def test_symbols_must_ascend(symbols):
    with pytest.raises(ValueError, match="not strictly ascending: use from_text"):
        CharVocabulary(symbols)


@pytest.mark.parametrize("ids", [[0, 4], [-1], np.array([9]), torch.tensor([4])])
def test_decode_out_of_range(ids):
    with pytest.raises(ValueError, match=r"expected 0\.\.3"):
        CharVocabulary("ehlo").decode(ids)


def test_decode_takes_a_tensor():
    assert CharVocabulary("ehlo").decode(torch.tensor([1, 3, 2, 0])) == "hole"


def test_equal_and_immutable():
    assert CharVocabulary("ab") == CharVocabulary.from_text("ba")
    with pytest.raises(AttributeError):
        CharVocabulary("ab").symbols = "abc"  # type: ignore[misc]
