import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seqdni.corpora import (
    CorpusError,
    TokenStream,
    Words,
    encode_splits,
    from_torchtext,
    import_torchtext,
    ptb_text,
    torchtext_vocabulary,
)

LINES = ["tick tock\n", "tick tack\n"]


class NewVocabulary:
    """What torchtext.vocab.Vocab of 0.9 and later offers."""

    def __init__(self, words):
        self.words = words

    def get_itos(self):
        return list(self.words)


@pytest.fixture
def torchtext():
    pytest.importorskip("torchtext")
    return import_torchtext()


def fields(torchtext, folder, train, valid=None):
    """A data set of the real torchtext, as its tutorials make it."""
    field = torchtext.data.Field()
    paths = [folder / "train.txt", folder / "valid.txt"]
    sets = []
    for path, lines in zip(paths, (train, valid), strict=True):
        if lines is not None:
            path.write_text("".join(lines))
            sets.append(torchtext.datasets.LanguageModelingDataset(str(path), field))
    field.build_vocab(sets[0])
    return field, sets


def test_data_sets_of_0_6(torchtext, tmp_path):
    field, (train, valid) = fields(torchtext, tmp_path, LINES, ["tock tuck\n"])
    encoded = from_torchtext(train, valid)
    assert encoded.train.tolist() == field.numericalize([train[0].text]).flatten().tolist()
    assert encoded.vocabulary.decode(encoded.train) == "".join(LINES)
    assert encoded.vocabulary.decode(encoded.valid) == "tock <unk>\n"
    assert encoded.vocabulary.words == tuple(field.vocab.itos)
    assert encoded.sizes["train"] == (6, 20, 6, 0)
    assert encoded.test is None


def test_iterators_of_0_6(torchtext, tmp_path):
    _, sets = fields(torchtext, tmp_path, LINES, LINES[:1])
    iterators = torchtext.data.BPTTIterator.splits(sets, batch_size=2, bptt_len=1)
    assert np.array_equal(from_torchtext(*iterators).train, from_torchtext(*sets).train)
    assert from_torchtext(*iterators).digest == from_torchtext(*sets).digest
    assert from_torchtext(*sets[::-1], vocab=sets[0].fields["text"].vocab).digest != (
        from_torchtext(*sets).digest
    )


def test_experimental_data_sets_of_0_6(torchtext):
    from torchtext.experimental.datasets.language_modeling import LanguageModelingDataset

    vocab = torchtext.vocab.build_vocab_from_iterator([["tick", "tock"]])
    ids = torch.tensor([2, 3, 2])
    encoded = from_torchtext(LanguageModelingDataset(ids, vocab))
    assert encoded.vocabulary.decode(encoded.train) == "tick tock tick"


def test_penn_treebank_of_0_6(torchtext, ptb_dir, tmp_path):
    field = torchtext.data.Field()
    sets = [
        torchtext.datasets.PennTreebank(str(ptb_dir / f"ptb.{split}.txt"), field)
        for split in ("train", "valid", "test")
    ]
    field.build_vocab(sets[0])
    encoded = from_torchtext(*sets, name="ptb")
    assert {s: size.tokens for s, size in encoded.sizes.items()} == {
        "train": 929_589,
        "valid": 73_760,
        "test": 82_430,
    }
    text = ptb_text(ptb_dir, by_character=False)
    assert encoded.vocabulary.decode(encoded.valid) == text.valid
    own = encode_splits(text, Words(), tmp_path)
    assert encoded.sizes == own.sizes
    assert set(encoded.vocabulary.words) - set(own.vocabulary.words) == {"<pad>"}
    assert next(TokenStream(encoded.train, 32, 20)).inputs.shape == (20, 32)


@pytest.mark.parametrize(
    "lines", [LINES, ["tick tock", "tick tack"], [["tick", "tock"], ["tick", "tack"]]]
)
def test_iterators_over_lines(lines):
    vocab = NewVocabulary(["<unk>", "<eos>", "tick", "tock"])
    encoded = from_torchtext(iter(lines), test=iter(lines[:1]), vocab=vocab)
    assert encoded.train.tolist() == [2, 3, 1, 2, 0, 1]
    assert encoded.test.tolist() == [2, 3, 1]
    without_ends = NewVocabulary(["<unk>", "tick", "tock"])
    assert from_torchtext(iter(lines), vocab=without_ends).train.tolist() == [1, 2, 1, 0]


def test_used_up_iterator():
    lines = iter(LINES)
    vocab = NewVocabulary(["<unk>", "tick"])
    from_torchtext(lines, vocab=vocab)
    with pytest.raises(CorpusError, match="the train split is empty; an iterator can be read once"):
        from_torchtext(lines, vocab=vocab)


def test_no_vocabulary():
    with pytest.raises(ValueError, match="no vocabulary: give vocab=, or call build_vocab"):
        from_torchtext(iter(LINES))
    with pytest.raises(ValueError, match=r"dict has neither itos nor get_itos\(\)"):
        torchtext_vocabulary({"tick": 1})


@pytest.mark.parametrize("words", [["tick"], ["<unk>", "tick", "tick"]])
def test_unsuitable_vocabulary(words):
    with pytest.raises(CorpusError, match="torchtext's vocabulary does not suit: "):
        torchtext_vocabulary(SimpleNamespace(itos=words))


@pytest.mark.parametrize("given", ["tick tock", 3])
def test_no_data_set(given):
    with pytest.raises(ValueError, match="is not a data set of torchtext, nor an iterator over"):
        from_torchtext(given, vocab=NewVocabulary(["<unk>"]))


def test_torchtext_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchtext", None)
    with pytest.raises(CorpusError, match=r"cannot be imported .*: pip install torchtext==0\.6\.0"):
        import_torchtext()


def test_torchtext_that_does_not_load(tmp_path, monkeypatch):
    """As 0.18 with a torch that it was not compiled for."""
    (tmp_path / "torchtext").mkdir()
    (tmp_path / "torchtext/__init__.py").write_text(
        "raise OSError('libtorchtext.so: undefined symbol: _ZN3c10')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchtext", raising=False)
    with pytest.raises(CorpusError, match=r"\(libtorchtext\.so: undefined symbol.*==0\.6\.0"):
        import_torchtext()
