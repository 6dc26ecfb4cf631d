import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import CorpusError, Stretch, blocks
from seqdni.corpora.text import source as source_module
from seqdni.corpora.text.source import Piece, newlines, raw, whole_file, whole_lines
from seqdni.corpora.text.split import cut

file_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
few = st.integers(1, 7)  # bytes or characters of a block


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("source")


def stretch_of(folder, *texts: str | bytes) -> Stretch:
    pieces = []
    for i, text in enumerate(texts):
        path = folder / f"{i}.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        pieces += whole_file(path, "").pieces
    return Stretch(tuple(pieces))


@given(text=file_text, block=few)
def test_blocks_add_up_to_the_text(folder, text, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        source = stretch_of(folder, text)
        parts = list(blocks(source))
        assert "".join(parts) == text
        assert "" not in parts
        assert b"".join(raw(source)) == text.encode()
        assert "".join(blocks(text)) == text
        assert b"".join(raw(text)) == text.encode()


@given(texts=st.lists(file_text, min_size=1, max_size=4), block=few)
def test_files_have_a_newline_between_them(folder, texts, block):
    expected = ""
    for text in texts:
        expected += "\n" * bool(text and expected and not expected.endswith("\n")) + text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        source = stretch_of(folder, *texts)
        assert "".join(blocks(source)) == expected
        assert b"".join(raw(source)) == expected.encode()


@given(texts=st.lists(st.text("a\r\n"), min_size=1, max_size=4), block=few)
def test_text_mode_reads_files_as_python_does(folder, texts, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        kept = stretch_of(folder, *texts)
        expected = newlines("".join(blocks(kept)))
        source = Stretch(kept.pieces, text_mode=True)
        assert "".join(blocks(source)) == expected
    for k, text in enumerate(texts[:1]):
        assert newlines(text) == (folder / f"{k}.txt").read_text()


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_a_byte_order_mark_is_no_text(folder, monkeypatch, block):
    monkeypatch.setattr(source_module, "BLOCK", block)
    path = folder / "marked.txt"
    path.write_bytes("\ufefftick\ufeff".encode())
    source = whole_file(path, "", text_mode=True)
    assert "".join(blocks(source)) == "tick\ufeff"  # only at the beginning
    assert source.size == 7
    assert "".join(blocks(whole_file(path, ""))) == "\ufefftick\ufeff"


@given(before=file_text, after=file_text, block=few, bad=st.sampled_from([b"\xff", b"\xe2\x28"]))
def test_the_offset_of_a_bad_byte(folder, before, after, block, bad):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        source = stretch_of(folder, "first file\n", before.encode() + bad + after.encode())
        with pytest.raises(CorpusError) as caught:
            list(blocks(source))
    assert f"1.txt: byte {len(before.encode())} is not UTF-8" in str(caught.value)


def test_a_character_that_the_file_ends_inside(folder, monkeypatch):
    monkeypatch.setattr(source_module, "BLOCK", 3)
    for source in (stretch_of(folder, b"abcd\xe2\x82"), stretch_of(folder, b"abcd\xe2\x82", "e")):
        with pytest.raises(CorpusError, match=r"0\.txt: byte 4 is not UTF-8 \(unexpected end"):
            list(blocks(source))


def test_latin_1_is_bytes(folder):
    (folder / "bytes").write_bytes(bytes(range(1, 256)))
    source = whole_file(folder / "bytes", "", "latin-1")
    assert "".join(blocks(source)).encode("latin-1") == bytes(range(1, 256))


@given(text=file_text, data=st.data())
def test_cuts_add_up_and_are_never_inside_a_character(folder, text, data):
    source = stretch_of(folder, text[: len(text) // 2], text[len(text) // 2 :])
    at = sorted(data.draw(st.lists(st.integers(0, source.size), max_size=3)))
    parts = cut(source, at)
    assert len(parts) == len(at) + 1
    assert sum(part.size for part in parts) == source.size
    whole = b""
    for part in parts:
        for piece in part.pieces:
            own = piece.path.read_bytes()[piece.begin : piece.end]
            own.decode()  # no character is cut
            whole += own
    assert whole.decode() == text


def test_a_cut_goes_to_a_line_that_is_near(folder):
    source = stretch_of(folder, "tick\ntock\n" * 10)
    assert [part.size for part in cut(source, [51, 73])] == [55, 20, 25]
    assert [part.size for part in cut(source, [50, 75])] == [50, 25, 25]
    assert [part.size for part in cut(source, [0, 100])] == [0, 100, 0]


def test_a_cut_goes_to_a_line_of_any_kind_in_text_mode(folder):
    for end, sizes in (("\r", [55, 20, 25]), ("\r\n", [54, 24, 42])):
        (folder / "other.txt").write_bytes(f"tick{end}tock{end}".encode() * 10)
        source = whole_file(folder / "other.txt", "", text_mode=True)
        parts = cut(source, [51, 73])
        assert [part.size for part in parts] == sizes
        assert all(part.text_mode for part in parts)
        assert "".join("".join(blocks(part)) for part in parts) == "tick\ntock\n" * 10


def test_a_cut_without_a_line_is_exact(folder):
    source = stretch_of(folder, "x" * 100)
    assert [part.size for part in cut(source, [51, 73])] == [51, 22, 27]


@given(text=st.text("ab \n", max_size=60), block=few)
def test_whole_lines_add_up_and_cut_before_spaces(text, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK", block)
        patch.setattr(source_module, "LONGEST_WORD", 61)
        assert "".join(whole_lines(text)) == text
        patch.setattr(source_module, "LONGEST_WORD", 3)
        parts, refused = [], None
        try:
            parts.extend(whole_lines(text))
        except CorpusError as error:
            refused = str(error)
    if refused is None:
        assert "".join(parts) == text
        for part, following in pairwise(parts):
            assert part.endswith("\n") or following.startswith(" ")
    else:
        assert "the text: more than 3 characters without a space or a line's end" in refused
        assert re.search("[^ \n]{3}", text)


def test_a_file_that_becomes_shorter(folder):
    source = stretch_of(folder, "tick tock")
    (folder / "0.txt").write_text("tick")
    with pytest.raises(CorpusError, match=r"0\.txt: became shorter while it was read"):
        list(blocks(source))


def test_a_file_that_goes(folder):
    with pytest.raises(CorpusError, match=r"gone\.txt: No such file .*; make it readable"):
        list(blocks(Stretch((Piece(folder / "gone.txt", 0, 3),))))
