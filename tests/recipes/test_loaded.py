"""A trained model in Python, as an export, and as the beginning of another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from runs import TINY, VERSE, result_of, run
from safetensors.torch import load_file
from torch import nn

import seqdni
from seqdni.corpora import CorpusError
from seqdni.recipes.cli import main
from seqdni.recipes.errors import RunError

PIECES = ["--tokens", "subword", "--subword-size", "290"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs and exports of characters, of pieces of words, and of two levels."""
    folder = tmp_path_factory.mktemp("loaded")
    patched = pytest.MonkeyPatch()
    patched.setenv("SEQDNI_CACHE", str(folder / "cache"))
    (folder / "verse.txt").write_text(VERSE)
    words = ["lm", "--corpus", folder / "verse.txt", "--updates", 60, "--lr", "1e-2", *TINY]
    for name, more in (
        ("char", []),
        ("piece", PIECES),
        ("levels", ["--hierarchy", 2, "--period", 8]),
        ("random", ["--trainer", "random"]),
    ):
        run(*words, *more, "--out", folder / name)
        assert main(["export", str(folder / name), "--out", str(folder / f"{name}-export")]) == 0
    patched.undo()
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("SEQDNI_CACHE", str(made / "cache"))


@pytest.mark.parametrize("name", ["char", "piece", "levels", "random"])
def test_a_run_and_its_export_are_the_same_model(name, capsys):
    text = VERSE[:2000]
    loaded, exported = seqdni.load(name), seqdni.load(f"{name}-export")
    assert loaded.score(text) == exported.score(text)
    assert 0 < loaded.score(text) < 0.9 * torch.tensor(len(loaded.vocabulary)).log()
    sampled = loaded.sample("the ", length=30, seed=3)
    assert sampled.startswith("the ")
    assert sampled == exported.sample("the ", length=30, seed=3)
    capsys.readouterr()
    assert main(["sample", name, "--prompt", "the ", "--length", "30", "--seed", "3"]) == 0
    assert capsys.readouterr().out.removesuffix("\n") == sampled
    states = loaded.hidden_states(text)
    assert states.shape == (len(loaded.vocabulary.encode(text)), 1, 16)
    assert torch.equal(states, exported.hidden_states(text))


def test_the_three_lines():
    model, vocabulary, options = seqdni.load("char")
    assert options.recipe == "lm"
    logits, _ = model(
        torch.from_numpy(vocabulary.encode("the ").astype("int64"))[:, None], model.initial_state(1)
    )
    assert logits.shape == (4, 1, len(vocabulary))


def test_an_export_in_plain_pytorch():
    """What the model card says: the weights are those of torch's own modules."""
    weights = load_file("char-export/model.safetensors")
    symbols = json.loads(Path("char-export/vocabulary.json").read_text())["symbols"]
    lstm, readout = nn.LSTM(len(symbols), 16), nn.Linear(16, len(symbols))
    core = {k.removeprefix("core.rnn."): v for k, v in weights.items() if k.startswith("core.rnn.")}
    lstm.load_state_dict(core)
    readout.load_state_dict({k[8:]: v for k, v in weights.items() if k.startswith("readout.")})
    ids = torch.tensor([symbols.index(c) for c in VERSE[:50]])
    outputs, _ = lstm(nn.functional.one_hot(ids, len(symbols)).float()[:, None])
    assert torch.allclose(outputs, seqdni.load("char").hidden_states(VERSE[:50]), atol=1e-6)
    model = seqdni.load("char").model
    logits, _ = model(ids[:, None], model.initial_state(1))
    assert torch.allclose(readout(outputs), logits, atol=1e-5)


def test_sentencepiece_reads_its_own_file():
    own = sentencepiece.SentencePieceProcessor(model_file="piece-export/sentencepiece.model")
    assert len(own) == len(seqdni.load("piece").vocabulary)


def test_the_model_card_says_what_is_there():
    card = Path("char-export/README.md").read_text()
    assert "| `readout.weight` |" in card
    assert f'"valid_bpc": {result_of("char")["valid_bpc"]}' in card


def test_models_without_text(tmp_path):
    run("copy", "--updates", 5, "--out", tmp_path / "copy", *TINY)
    loaded = seqdni.load(tmp_path / "copy")
    assert loaded.vocabulary is None
    assert loaded.hidden_states(torch.zeros(7, 2, dtype=torch.long)).shape == (7, 2, 16)
    for ask in (loaded.score, loaded.sample, loaded.hidden_states):
        with pytest.raises(RunError, match="a model of copy reads no text"):
            ask("the ")


def test_what_cannot_be_loaded_or_asked(tmp_path):
    with pytest.raises(RunError, match="is not the folder of a run"):
        seqdni.load(tmp_path)
    with pytest.raises(CorpusError, match="character 'Z'"):
        seqdni.load("char").score("Zzz")
    with pytest.raises(RunError, match="1 tokens, expected at least 2"):
        seqdni.load("char").score("t")


@pytest.mark.parametrize("words", [["eval"], ["horizon"]])
def test_an_export_has_no_run(words, capsys):
    assert main([*words, "char-export"]) == 1
    assert "char-export is an export" in capsys.readouterr().err


def test_a_damaged_export_is_named(made, tmp_path):
    for name in ("model.safetensors", "config.yaml", "vocabulary.json"):
        (tmp_path / name).write_bytes((made / "char-export" / name).read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (b"", whole[:-9], b"\xff" * 8 + whole[8:], b"x" * 100):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(RunError, match=r"model\.safetensors does not fit"):
            seqdni.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "vocabulary.json").write_text("[" * 9000)
    with pytest.raises(RunError, match=r"vocabulary\.json is damaged"):
        seqdni.load(tmp_path)


@pytest.mark.parametrize("source", ["char", "char-export", "random", "piece"])
@pytest.mark.parametrize("trainer", ["dni", "random"])
def test_fine_tuning_starts_from_the_weights_and_the_vocabulary(source, trainer, tmp_path):
    """At a rate that changes nothing the model stays what it was; at a real one it moves."""
    (tmp_path / "other.txt").write_text(
        "the lazy fox sleeps. the dog jumps again and again.\n" * 60
    )
    words = ["lm", "--corpus", tmp_path / "other.txt", "--init-from", source, *TINY]
    words += [*PIECES, "--trainer", trainer] if source == "piece" else ["--trainer", trainer]
    run(*words, "--lr", "1e-30", "--updates", 3, "--out", tmp_path / "still")
    before, after = seqdni.load(source), seqdni.load(tmp_path / "still")
    assert after.vocabulary.to_json() == before.vocabulary.to_json()
    assert after.score(VERSE[:500]) == pytest.approx(before.score(VERSE[:500]), abs=1e-6)
    run(*words, "--lr", "1e-2", "--updates", 40, "--out", tmp_path / "moved")
    text = (tmp_path / "other.txt").read_text()[:500]
    assert seqdni.load(tmp_path / "moved").score(text) < before.score(text)
    assert main(["eval", str(tmp_path / "moved")]) == 0


def test_fine_tuning_resumes_bit_for_bit(tmp_path):
    words = ["lm", "--corpus", "verse.txt", "--init-from", "char", *TINY]
    run(*words, "--updates", 20, "--out", tmp_path / "whole")
    run(*words, "--updates", 10, "--out", tmp_path / "parts")
    run("--resume", tmp_path / "parts", "--updates", 20)
    whole, parts = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["trainer"]["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_fine_tuning_of_another_model_is_refused(capsys):
    words = ["run", "lm", "--corpus", "verse.txt", "--init-from", "char", "--hidden", "9"]
    assert main(words) == 1
    assert "--init-from" in (error := capsys.readouterr().err)
    assert "has another model" in error
    assert main(["run", "copy", "--init-from", "nowhere"]) == 1
    assert "nowhere is not the folder of a run" in capsys.readouterr().err
