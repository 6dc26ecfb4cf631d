"""Recipe ``lm``: kinds of tokens, units, schedules, what is exported."""

from __future__ import annotations

import json
import math

import pytest
import torch
from runs import TINY, VERSE, assert_same, result_of, rows_of, run, without_times
from safetensors.torch import load_file

from corpora import blocks, own_text
from recipes.cli import main

WORDS = ["--tokens", "word", "--chunk-len", "4"]
PIECES = ["--tokens", "subword", "--subword-size", "290", "--chunk-len", "4"]
KINDS = {"char": [], "word": WORDS, "subword": PIECES}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def verse(tmp_path):
    path = tmp_path / "verse.txt"
    path.write_text(VERSE)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_token_end_to_end(kind, verse, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--corpus", verse, *KINDS[kind], "--updates", 150, "--lr", "1e-2", "--out", out]
    run("lm", *words, "--log-every", 30, *TINY)
    result = result_of(out)
    expected = {"char": {"bpc"}, "word": {"ppl"}, "subword": {"bpc", "ppl"}}[kind]
    for unit in ("bpc", "ppl"):
        assert (f"valid_{unit}" in result) == (f"test_{unit}" in result) == (unit in expected)
        assert any(f"valid_{unit}" in row for row in rows_of(out)) == (unit in expected)
    if kind == "word":
        assert 1 < result["valid_ppl"] < 0.8 * len(set(VERSE.split()))
    if "bpc" in expected:
        assert 0 < result["valid_bpc"] < 0.8 * math.log2(len(set(VERSE)))
    capsys.readouterr()

    assert main(["eval", str(out), "--split", "test"]) == 0
    printed = capsys.readouterr().out
    unit = min(expected)
    assert f"test_{unit}  {result[f'test_{unit}']:.4f}" in printed
    assert "valid" not in printed
    test = tmp_path / "test.txt"
    test.write_text("".join(blocks(own_text(verse).test)))
    assert main(["eval", str(out), "--text", str(test)]) == 0
    assert f"{result[f'test_{unit}']:.4f}" in capsys.readouterr().out

    words = ["sample", str(out), "--length", "40", "--prompt", "the quick"]
    assert main(words) == 0
    sampled = capsys.readouterr().out
    assert sampled.startswith("the quick")
    assert main([*words, "--top-k", "1"]) == 0
    likeliest = capsys.readouterr().out
    assert main([*words, "--temperature", "0"]) == 0
    assert capsys.readouterr().out == likeliest
    assert len(sampled) > 40


def test_subwords_are_told_in_the_units_of_the_text(verse, tmp_path):
    """The same nats, spread over the characters and over the words of the original."""
    run("lm", "--corpus", verse, *PIECES, "--updates", 20, "--out", tmp_path / "run", *TINY)
    result = result_of(tmp_path / "run")
    text = "".join(blocks(own_text(verse).valid))
    nats_of_all = result["valid_bpc"] * math.log(2) * len(text)
    words = len(text.split()) + text.count("\n")
    assert result["valid_ppl"] == pytest.approx(math.exp(nats_of_all / words))


def test_a_sample_longer_than_what_is_decoded_again(verse, tmp_path, capsys):
    run("lm", "--corpus", verse, "--updates", 20, "--out", tmp_path / "run", *TINY)
    capsys.readouterr()
    words = ["sample", str(tmp_path / "run"), "--length", "300", "--prompt", "the "]
    assert main(words) == 0
    assert len(capsys.readouterr().out) == len("the ") + 300 + 1


def learning_rates(monkeypatch):
    """What the optimiser had at each update."""
    from seqdni import Trainer

    step, rates = Trainer.step, []

    def noting(self, *args, **named):
        rates.append(self.optimizer.param_groups[0]["lr"])
        step(self, *args, **named)

    monkeypatch.setattr(Trainer, "step", noting)
    return rates


def test_cosine_with_warmup(verse, tmp_path, monkeypatch):
    rates = learning_rates(monkeypatch)
    words = ["--schedule", "cosine", "--warmup-updates", 5, "--lr", "0.1", "--updates", 20]
    run("lm", "--corpus", verse, *words, "--out", tmp_path / "run", *TINY)
    wave = [0.05 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]
    rise = [min(1, (k + 1) / 5) for k in range(20)]
    assert rates == pytest.approx([a * b for a, b in zip(wave, rise, strict=True)])


def test_plateau_and_patience(verse, tmp_path, monkeypatch):
    """At a rate that learns nothing no validation is a new best but the first."""
    rates = learning_rates(monkeypatch)
    words = ["--schedule", "plateau", "--decay", "0.1", "--patience", 3, "--lr", "1e-30"]
    words += ["--evaluations", 10, "--updates", 100, "--log-every", 10]
    run("lm", "--corpus", verse, *words, "--out", tmp_path / "run", *TINY)
    assert result_of(tmp_path / "run")["updates"] == 40  # a best at 10, none at 20, 30, 40
    assert rates == pytest.approx([1e-30] * 20 + [1e-31] * 10 + [1e-32] * 10, rel=1e-6)
    run("lm", "--resume", tmp_path / "run")
    assert result_of(tmp_path / "run")["updates"] == 40
    run("lm", "--resume", tmp_path / "run", "--patience", 5)
    assert result_of(tmp_path / "run")["updates"] == 60


def test_epochs(verse, tmp_path):
    run("lm", "--corpus", verse, "--epochs", 1.5, "--out", tmp_path / "run", *TINY)
    epoch = (int(own_text(verse).train.size) - 1) // 4 * 4
    assert 1.5 * epoch <= result_of(tmp_path / "run")["tokens"] <= 1.5 * epoch + 4 * 8


RICH = [
    *["--layers", "2", "--dropout", "0.3", "--schedule", "plateau", "--optimizer", "adamw"],
    *["--weight-decay", "0.01", "--log-every", "5", "--evaluations", "4"],
]
MODELS = {
    "tied": [*WORDS, *RICH, "--tie", "true"],
    "grouped": [*WORDS, *RICH, "--cutoffs", "[4,8]", "--trainer", "dni", "--synthesizer", "rls"],
    "sgd": [*PIECES, "--optimizer", "sgd", "--momentum", "0.9", "--embedding", "5"],
    "one-hot": [*WORDS, "--embedding", "0", "--trainer", "overlap"],
    "levels": [*WORDS, *RICH, "--hierarchy", "2", "--period", "4", "--slow-chunk-len", "2"],
    "levels-rls": [
        *[*WORDS, "--hierarchy", "3", "--period", "3", "--slow-chunk-len", "4"],
        *["--synthesizer", "rls", "--look-ahead", "0"],
    ],
    "levels-joint": [*PIECES, "--hierarchy", "2", "--period", "4", "--trainer", "joint"],
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_stop_and_go_on_and_are_exported(kind, verse, tmp_path, capsys):
    """Dropout, schedules, tied and grouped readouts: bit for bit as if never stopped."""
    words = ["--corpus", verse, *MODELS[kind], *TINY]
    run("lm", *words, "--updates", 40, "--out", tmp_path / "whole")
    run("lm", *words, "--updates", 40, "--max-tokens", 320, "--out", tmp_path / "parts")
    run("lm", "--resume", tmp_path / "parts", "--max-tokens", "null")
    whole, parts = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert_same(without_times(whole)["trainer"]["model"], parts["trainer"]["model"])

    out = tmp_path / "export"
    assert main(["export", str(tmp_path / "whole"), "--out", str(out)]) == 0
    best = torch.load(tmp_path / "whole" / "best.pt", weights_only=True)
    assert_same(load_file(out / "model.safetensors"), dict(best["trainer"]["model"]))
    assert json.loads((out / "vocabulary.json").read_text())["tokens"] in ("word", "subword")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "whole"), "--out", str(out)]) == 1
    assert "model.safetensors is there already" in capsys.readouterr().err


def test_what_is_asked_of_the_wrong_run(tmp_path, verse, capsys):
    run("copy", "--updates", 10, "--out", tmp_path / "copy", *TINY)
    run(
        "lm",
        "--corpus",
        verse,
        "--updates",
        10,
        "--test-fraction",
        0,
        "--out",
        tmp_path / "lm",
        *TINY,
    )
    capsys.readouterr()
    for words, message in (
        (["eval", "copy", "--split", "test"], "--text and --split are for runs of lm"),
        (["sample", "copy", "--top-k", "3"], "--prompt, --temperature and --top-k are for runs"),
        (["sample", "lm", "--top-k", "0"], "--top-k is 0, expected at least 1"),
        (["eval", "lm", "--split", "test"], "--split test: the corpus has train, valid"),
        (["eval", "lm", "--split", "valid", "--text", verse], "give --text or --split, not both"),
        (["sample", "lm", "--prompt", "THE"], "character 'T' at position 0 is not among"),
    ):
        assert main([words[0], str(tmp_path / words[1]), *words[2:]]) == 1
        assert message in capsys.readouterr().err


def test_without_a_validation_split_nothing_is_called_validation(verse, tmp_path, capsys):
    words = ["--corpus", verse, "--valid-fraction", 0, "--updates", 20, *TINY]
    run("lm", *words, "--out", tmp_path / "run")
    result = result_of(tmp_path / "run")
    assert {"train_bpc", "final_train_bpc", "test_bpc"} <= result.keys()
    assert not any("valid" in name for name in result)
    capsys.readouterr()
    assert main(["run", "lm", *map(str, words), "--patience", "2"]) == 1
    assert "need a validation split" in capsys.readouterr().err


def test_a_folder_with_splits_of_its_own(tmp_path, capsys):
    for split in ("train", "valid"):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / f"{split}.txt").write_text(VERSE)
    words = ["lm", "--corpus", str(tmp_path / "own"), "--updates", "5", *TINY]
    run(*words, "--out", tmp_path / "run")
    assert {"valid_bpc"} <= result_of(tmp_path / "run").keys()
    assert main(["run", *words, "--valid-fraction", "0.3"]) == 1
    assert "--valid-fraction has no effect here" in capsys.readouterr().err


def test_tokens_too_few_to_score_are_found_before_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("tick tock " * 60)
    words = ["lm", "--corpus", "short.txt", "--tokens", "word", "--valid-fraction", "0.01"]
    assert main(["run", *words, *TINY]) == 1
    assert "tokens for valid, expected at least 2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_limits_of_a_cosine_do_not_move(verse, tmp_path, capsys):
    words = ["--corpus", verse, "--schedule", "cosine", "--updates", 10, *TINY]
    run("lm", *words, "--out", tmp_path / "run")
    assert main(["run", "lm", "--resume", str(tmp_path / "run"), "--updates", "20"]) == 1
    assert "its limits cannot change" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").exists()


def test_odd_prompts_and_configs(verse, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    run("lm", "--corpus", verse, *WORDS, "--updates", 5, "--out", out, *TINY)
    for extra in (["--prompt", " "], ["--temperature", "1e-320"], ["--prompt", "zzz"]):
        assert main(["sample", str(out), "--length", "5", *extra]) == 0
    config = out / "config.yaml"
    for change, message in (
        ("hidden: wide", "config.yaml is damaged"),
        ("tokens: words", "config.yaml is damaged"),
        ("recipe: [lm]", "is not the folder of a run"),
    ):
        name = change.split(":")[0]
        lines = [
            change if line.startswith(f"{name}:") else line
            for line in config.read_text().splitlines()
        ]
        (tmp_path / "odd").mkdir(exist_ok=True)
        (tmp_path / "odd" / "config.yaml").write_text("\n".join(lines))
        capsys.readouterr()
        assert main(["sample", str(tmp_path / "odd")]) == 1
        assert message in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ptb-word-small").mkdir()  # a folder of that name does not hide the config
    words = ["--config=ptb-word-small", "--corpus", verse, *TINY[:4], "--epochs", "null"]
    run("lm", *words, "--updates", 2, "--out", tmp_path / "named")


def test_scripts_without_spaces(tmp_path):
    """A word of a thousand characters has a perplexity beyond any number: null, not Infinity."""
    codes = torch.randint(97, (20_000,), generator=torch.Generator().manual_seed(0)).tolist()
    text = "".join(chr(0x4E00 + code) for code in codes)
    (tmp_path / "han.txt").write_text("\n".join(text[k : k + 900] for k in range(0, 20_000, 900)))
    words = ["--corpus", tmp_path / "han.txt", "--tokens", "subword", "--subword-size", 400]
    run("lm", *words, "--updates", 5, "--out", tmp_path / "run", *TINY)
    text = (tmp_path / "run" / "result.json").read_text()
    assert "Infinity" not in text
    assert result_of(tmp_path / "run")["valid_ppl"] is None
