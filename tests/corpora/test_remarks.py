import pytest

from seqdni.corpora import Characters, Subwords, Text, Words, own_text, ptb_lines, remarks
from seqdni.corpora.text import source as source_module

MARKED = Text("clock", "tick <eos>\ntock <eos> \n<eos>\n<eos> tick\n", "tick\n<unk>\n", None)


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_line_ends_written_out(monkeypatch, block):
    monkeypatch.setattr(source_module, "BLOCK", block)
    by_word = "clock, train: 3 lines end in <eos>, which is counted once, as the line's end"
    assert list(remarks(MARKED, Words())) == [by_word]
    assert list(remarks(MARKED, Subwords())) == [by_word]
    ends, unknown = remarks(MARKED, Characters())
    assert ends.startswith("clock, train: 3 lines end in <eos>, 5 characters each that are easy")
    assert unknown.startswith("clock, valid: <unk> stands there 1 times, 5 characters each")


def test_the_space_of_sentencepiece():
    text = Text("pieces", "\u2581tick\u2581tock\n", None, None)
    (told,) = remarks(text, Subwords())
    assert told.startswith("pieces: the character U+2581 stands there 2 times and is read as a sp")
    assert not list(remarks(text, Words()))


def test_files_left_out(tmp_path):
    for name in ("train.txt", "a.txt", "b.txt", "c.md", "d.md"):
        (tmp_path / name).write_text("tick tock\n")
    (told,) = remarks(own_text(tmp_path), Words())
    assert told == f"{tmp_path.name}: not read: a.txt, b.txt, c.md and 1 more"


def test_nothing_to_say():
    for kind in (Characters(), Words(), Subwords()):
        assert not list(remarks(Text("clock", "tick tock\n\n", "tick", None), kind))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_penn_treebank_reads_a_line_s_end_once(end):
    text = end.join(["the bank <eos>", "", "buy <unk>", ""])
    assert ptb_lines(text) == "the_bank\n\nbuy_<unk>\n"
    assert ptb_lines(text, by_character=False) == "the bank\n\nbuy <unk>\n"
    assert ptb_lines("") == ""
