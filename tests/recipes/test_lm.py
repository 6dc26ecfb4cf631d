"""Recipe ``lm``: kinds of tokens, units, schedules, what is exported."""

from __future__ import annotations

import codecs
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from runs import TINY, VERSE, assert_same, result_of, rows_of, run, without_times
from safetensors.torch import load_file

from seqdni.corpora import Text, blocks, own_text, vocabulary_from
from seqdni.recipes.cli import main
from seqdni.recipes.lm.notes import note_text
from seqdni.recipes.lm.options import Options

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


def by_hand(out, text):
    """Nats of the tokens after the first, one row, one step at a time; and the tokens."""
    saved = torch.load(out / "best.pt", weights_only=True)
    weights, vocabulary = saved["trainer"]["model"], saved["progress"]["vocabulary"]
    ids = vocabulary_from(vocabulary).encode(text).tolist()
    encode = weights.get("encoder.weight", torch.eye(len(weights["readout.bias"])))
    cell = torch.nn.LSTMCell(encode.shape[1], 16)
    cell.load_state_dict({k[9:-3]: v for k, v in weights.items() if k.startswith("core.rnn.")})
    state, nats = (torch.zeros(16), torch.zeros(16)), 0.0
    with torch.no_grad():
        for now, following in pairwise(ids):
            state = cell(encode[now], state)
            scores = weights["readout.weight"] @ state[0] + weights["readout.bias"]
            nats -= scores.double().log_softmax(0)[following].item()
    return nats, ids


UNITS = {  # characters and words after the first token, counted by hand
    "char": {"th": (1, None), "the dog": (6, None), "the dog\nsleeps again": (19, None)},
    "word": {"the dog": (None, 1), "fox\n": (None, 1), "the dog\nsleeps xyz. the": (None, 5)},
    # The first piece is "the" here: its two words have nine pieces, as "xyz" are bytes or letters.
    "subword": {"the dog": (4, 1), "the dog\nsleeps again.": (18, 4), "the\n\nlazy": (6, 3)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_short_texts_by_hand(kind, verse, tmp_path, capsys):
    """What every figure is: the nats of all tokens but the first, over what these stand for."""
    out = tmp_path / "run"
    run("lm", "--corpus", verse, *KINDS[kind], "--updates", 20, "--out", out, *TINY)
    for text, (characters, words) in UNITS[kind].items():
        (tmp_path / "text.txt").write_text(text)
        nats, ids = by_hand(out, text)
        assert 2 <= len(ids) <= 20
        capsys.readouterr()
        assert main(["eval", str(out), "--text", str(tmp_path / "text.txt")]) == 0
        found = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
        if characters is not None:
            assert float(found["bpc"]) == pytest.approx(nats / math.log(2) / characters, abs=1e-4)
        if words is not None:
            assert float(found["ppl"]) == pytest.approx(math.exp(nats / words), rel=1e-4)
        if kind == "word":
            assert float(found["unk"]) == pytest.approx(("xyz" in text) / words, abs=1e-4)


def test_the_result_of_subwords_is_told_in_the_same_units(verse, tmp_path):
    run("lm", "--corpus", verse, *PIECES, "--updates", 20, "--out", tmp_path / "run", *TINY)
    result = result_of(tmp_path / "run")
    text = "".join(blocks(own_text(verse).valid))
    nats, _ = by_hand(tmp_path / "run", text)
    assert text.startswith("the ")
    characters, words = len(text) - 3, len(text.split()) + text.count("\n") - 1
    assert result["valid_bpc"] == pytest.approx(nats / math.log(2) / characters, rel=1e-5)
    assert result["valid_ppl"] == pytest.approx(math.exp(nats / words), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_in_other_files_has_the_same_figure(kind, verse, tmp_path, capsys):
    out = tmp_path / "run"
    run("lm", "--corpus", verse, *KINDS[kind], "--updates", 20, "--out", out, *TINY)
    lines = b"the dog sleeps\nthe quick fox\n\nagain\n" * 3
    told = set()
    for number, same in enumerate(
        (
            lines,
            lines.replace(b"\n", b"\r\n"),
            lines.replace(b"\n", b"\r"),
            codecs.BOM_UTF8 + lines,
        )
    ):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(same)
        capsys.readouterr()
        assert main(["eval", str(out), "--text", str(path)]) == 0
        told.add(capsys.readouterr().out.split("\n", 1)[1])
    assert len(told) == 1
    path.write_bytes(b"the dog \xff")
    assert main(["eval", str(out), "--text", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "3.txt: byte 8 is not UTF-8" in error


def test_eos_in_the_text_is_counted_once(verse, tmp_path, capsys):
    """The figures of a run do not depend on whether a line's end is also written out."""
    marked = tmp_path / "marked.txt"
    marked.write_text(VERSE.replace("\n", " <eos>\n"))
    results = []
    for corpus in (verse, marked):
        out = tmp_path / f"run-{Path(corpus).stem}"
        capsys.readouterr()
        run("lm", "--corpus", corpus, *WORDS, "--updates", 20, "--out", out, *TINY)
        results.append({k: v for k, v in result_of(out).items() if "ppl" in k})
        assert ("lines end in <eos>, which is counted once" in capsys.readouterr().err) == (
            corpus is marked
        )
        assert main(["eval", str(out), "--text", str(marked)]) == 0
        results[-1]["text"] = capsys.readouterr().out
    assert results[0] == results[1]


def test_unknown_words_stand_beside_every_perplexity(verse, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--corpus", verse, *WORDS, "--max-words", 10, "--updates", 20, "--log-every", 5]
    run("lm", *words, "--out", out, *TINY)
    printed = capsys.readouterr()
    text = "".join(blocks(own_text(verse).valid)).replace("\n", " <eos> ").split()
    result = result_of(out)
    assert 0.05 < result["valid_unk"] < 1
    saved = torch.load(out / "best.pt", weights_only=True)["progress"]["vocabulary"]["words"]
    unknown = sum(word not in saved or word == "<unk>" for word in text[1:])
    assert result["valid_unk"] == pytest.approx(unknown / (len(text) - 1))
    share = f"{result['valid_unk']:.1%} of the words"
    assert f"ppl, {share} <unk>" in printed.err + printed.out
    assert "valid: " in printed.err
    assert "are <unk>; compare the perplexity only with" in printed.err
    assert {"valid_unk", "valid_ppl"} <= rows_of(out)[-1].keys()
    assert main(["eval", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"valid_unk  {result['valid_unk']:.4f}" in shown.out
    assert "test: " in shown.err


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_validation_are_shown_in_one_unit(kind, verse, tmp_path, capsys):
    """At a rate of nothing both are the same text to the same model, all but for a state or two."""
    words = ["--corpus", verse, *KINDS[kind], "--lr", "1e-30", "--trainer", "tbptt"]
    run("lm", *words, "--updates", 40, "--log-every", 40, "--out", tmp_path / "run", *TINY)
    printed = capsys.readouterr()
    line = re.search(r"train ([\d.]+)  valid ([\d.]+) (bpc|ppl)", printed.out + printed.err)
    assert float(line[1]) == pytest.approx(float(line[2]), rel=0.05)


def test_unseen_characters_are_replaced_when_asked(verse, tmp_path, capsys):
    out, path = tmp_path / "run", tmp_path / "text.txt"
    run("lm", "--corpus", verse, "--updates", 20, "--out", out, *TINY)
    path.write_text("The dog? ÄÖ.\n")
    capsys.readouterr()
    words = ["eval", str(out), "--text", str(path)]
    assert main(words) == 1
    assert "character 'T' at position 0 is not among" in (error := capsys.readouterr().err)
    assert "--unknown replace" in error
    assert main([*words, "--unknown", "replace"]) == 0
    shown = capsys.readouterr()
    assert (
        "4 of 13 characters (30.8%) are not known to the model and are scored as ' '" in shown.err
    )
    nats, _ = by_hand(out, " he dog    .\n")
    found = dict(line.split(None, 1) for line in shown.out.splitlines())
    assert found["replaced"] == "4"
    assert float(found["bpc"]) == pytest.approx(nats / math.log(2) / 12, abs=1e-4)


def test_files_left_out_and_small_vocabularies_are_told(tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("train.txt", "dev.txt", "notes.TXT"):
        (folder / name).write_text(VERSE)
    words = ["--corpus", folder, "--tokens", "subword", "--updates", 2, *TINY]
    run("lm", *words, "--out", tmp_path / "run")
    told = capsys.readouterr().err
    assert "own: not read: notes.TXT" in told
    assert re.search(r"has \d+ pieces, fewer than --subword-size 4000", told)
    assert "valid_bpc" in result_of(tmp_path / "run")
    assert main(["run", "lm", *map(str, words), "--valid-fraction", "0.3"]) == 1
    assert "--valid-fraction has no effect here" in capsys.readouterr().err


def test_the_joiner_of_penn_treebank_in_another_text(capsys):
    text = Text("own.txt", "the_bank said <eos>\nno_no\n", None, None)
    for corpus, told in (("ptb", True), ("pydoc", False)):
        note_text(Options(corpus=corpus), text)
        err = capsys.readouterr().err
        assert (
            "own.txt: the character _ stands there 2 times and is read as the space" in err
        ) == told
        assert ("1 lines end in <eos>, which is counted once" in err) == told


def test_a_run_that_ends_worse_than_guessing_says_so(verse, tmp_path, capsys):
    words = ["--corpus", verse, "--updates", 60, "--trainer", "tbptt", *TINY]
    run("lm", *words, "--lr", 30, "--out", tmp_path / "bad")
    assert "bits a token, a uniform guess 4." in result_of(tmp_path / "bad")["warning"]
    assert re.search("warning +the last model has", capsys.readouterr().out)
    run("lm", *words, "--lr", "1e-2", "--out", tmp_path / "good")
    assert "warning" not in result_of(tmp_path / "good")


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
        rates.append(self.learner.optimizer.param_groups[0]["lr"])
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
        (["eval", "copy", "--split", "test"], "--text, --split and --unknown are for runs of lm"),
        (["sample", "copy", "--top-k", "3"], "--prompt, --temperature and --top-k are for runs"),
        (["sample", "lm", "--top-k", "0"], "--top-k is 0, expected at least 1"),
        (["eval", "lm", "--split", "test"], "--split test: the corpus has train, valid"),
        (["eval", "lm", "--split", "valid", "--text", verse], "give --text or --split, not both"),
        (["eval", "lm", "--unknown", "replace"], "it needs --text and a run of --tokens char"),
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
