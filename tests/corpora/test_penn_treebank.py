import pytest

from seqdni.corpora import CorpusError, ptb_text


@pytest.fixture
def damaged_ptb(ptb_dir, tmp_path):
    """A copy of the real folder, to damage."""
    for path in ptb_dir.glob("ptb.*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_counts(ptb_dir):
    text = ptb_text(ptb_dir)
    assert (len(text.train), len(text.valid), len(text.test)) == (5_017_482, 393_042, 442_423)
    assert text.train.count("\n") == 42_068
    assert len(set(text.train + text.valid + text.test)) == 50


def test_characters_are_words_joined_by_underscores(ptb_dir):
    text = ptb_text(str(ptb_dir))
    second_line = (ptb_dir / "ptb.train.txt").read_text().splitlines()[1]
    assert text.train.split("\n")[1] == "_".join(second_line.split())
    assert text.train.split("\n")[1].startswith("pierre_<unk>_N_years_old_")
    assert " " not in text.train


def test_by_word_the_same_with_spaces(ptb_dir):
    text = ptb_text(ptb_dir, by_character=False)
    assert text.valid == ptb_text(ptb_dir).valid.replace("_", " ")


def test_windows_line_ends_are_the_same(damaged_ptb, ptb_dir):
    path = damaged_ptb / "ptb.valid.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert ptb_text(damaged_ptb) == ptb_text(ptb_dir)


def test_file_missing(damaged_ptb):
    (damaged_ptb / "ptb.valid.txt").unlink()
    with pytest.raises(CorpusError, match=r"ptb\.valid\.txt: No such file.*--data-dir"):
        ptb_text(damaged_ptb)


def test_file_truncated(damaged_ptb):
    path = damaged_ptb / "ptb.train.txt"
    path.write_bytes(path.read_bytes()[:1_000_000])
    expected = r"ptb\.train\.txt: damaged, \d+ lines, expected 42068; .*Mikolov"
    with pytest.raises(CorpusError, match=expected):
        ptb_text(damaged_ptb)


def test_character_lost(damaged_ptb):
    path = damaged_ptb / "ptb.test.txt"
    path.write_text(path.read_text().replace("the", "te", 1))
    with pytest.raises(CorpusError, match=r"damaged, 442422 characters, expected 442423"):
        ptb_text(damaged_ptb)


def test_strange_word(damaged_ptb):
    path = damaged_ptb / "ptb.test.txt"
    path.write_text(path.read_text().replace("the", "thE", 1))
    with pytest.raises(CorpusError, match="damaged, 10000 different words, expected 9999"):
        ptb_text(damaged_ptb)


def test_folder_missing_or_a_file(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere: no such folder; .*simple-examples"):
        ptb_text(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CorpusError, match="file: not a folder"):
        ptb_text(file)
