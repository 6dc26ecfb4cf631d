"""The words of the command line, and one clear line for every mistake."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml

import seqdni
from seqdni import Agreement, Horizon, Lag
from seqdni.recipes.cli import RECIPES, main
from seqdni.recipes.commands.horizon import report
from seqdni.recipes.directory import RunDirectory

PTB = Path(__file__).parents[2].parent / "shared/data/ptb"
TINY = ["--hidden", "8", "--batch", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))


OF_SEQUENCES = ("--chunk-len", "--layers", "--core")  # a net of layers has none


def test_ls_lists_every_recipe_on_a_line(capsys):
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_names_every_common_option(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", recipe, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in [
        "--trainer",
        "--chunk-len",
        "--hidden",
        "--layers",
        "--core",
        "--batch",
        "--lr",
        "--synth-lr",
        "--synthesizer",
        "--grad-scale",
        "--seed",
        "--updates",
        "--max-seconds",
        "--device",
        "--out",
        "--resume",
        "--config",
        "--print_config",
    ]:
        assert flag in text or (recipe == "layers" and flag in OF_SEQUENCES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_printed_config_is_accepted(recipe, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["run", recipe, "--batch", "3", "--seed", "7", "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["batch"] == 3
    Path("config.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["run", recipe, "--config", "config.yaml", "--seed", "8", "--print_config"])
    again = capsys.readouterr().out
    assert again == printed.replace("seed: 7", "seed: 8")


MISTAKES = {
    "unknown option": ("copy --chunk-lenght 3", "--chunk-lenght"),
    "abbreviated option": ("copy --chunk 3", "--chunk 3"),
    "wrong type": ("copy --chunk-len four", "--chunk-len: Expected a <class 'int'>. Got"),
    "not a choice": ("copy --trainer sgd", "--trainer: Expected"),
    "chunk length 0": ("copy --chunk-len 0", "--chunk-len is 0, expected at least 1"),
    "negative rate": ("lm --lr -1", "--lr is -1.0, expected more than 0"),
    "huge seed": ("lm --seed 99999999999999999999", "--seed is 99999999999999999999, expected at"),
    "chunks of bptt": ("copy --trainer bptt --chunk-len 9", "--chunk-len has no effect here"),
    "recompute": ("copy --trainer tbptt --recompute true", "--recompute has no effect here"),
    "random cuts": ("copy --cut-probability 0.3", "--cut-probability has no effect here"),
    "cut probability 0": ("lm --trainer random --cut-probability 0", "expected more than 0"),
    "history": ("copy --trainer random --history 2", "--history has no effect here; it needs"),
    "history 0": ("lm --trainer overlap --history 0", "--history is 0, expected at least 1"),
    "NaN rate": ("lm --lr nan", "--lr: Expected a <class 'float'>. Got value: nan"),
    "update every 0": ("copy --update-every 0", "--update-every is 0, expected at least 1"),
    "ignored option": ("copy --trainer tbptt --grad-scale 0.1", "--grad-scale has no effect here"),
    "ignored forget bias": ("copy --core gru --forget-bias 1", "--forget-bias has no effect here"),
    "ignored width": ("copy --synthesizer linear --synth-hidden 3", "with --synthesizer mlp"),
    "ignored rate": (
        "copy --synth-lr 0.1",
        "--synth-lr has no effect here",
    ),
    "ignored ridge": ("lm --ridge 0.1", "--ridge has no effect here"),
    "aux of linear": ("copy --trainer dni-aux --synthesizer linear", "add --synthesizer mlp"),
    "bptt on text": ("lm --trainer bptt", "use --trainer tbptt with a longer --chunk-len"),
    "episodes of text": ("lm --update-every episode", "a text has no episodes"),
    "bptt back to back": ("copy --episodes back-to-back --trainer bptt", "--episodes lockstep"),
    "episode back to back": ("copy --episodes back-to-back", "give a number of chunks"),
    "capture on a CPU": ("copy --capture true --device cpu", "--capture needs a CUDA device, got"),
    "capture of levels": ("lm --hierarchy 2 --capture true", "--capture has no effect here"),
    "no such device": ("copy --device tpu9", "--device tpu9"),
    "tied widths": ("lm --tie true --embedding 8", "--tie needs an embedding as wide as the core"),
    "tied groups": (
        "lm --tokens word --tie true --cutoffs [2]",
        "--tie does not go with --cutoffs",
    ),
    "groups of characters": ("lm --cutoffs [2]", "--cutoffs has no effect here; it needs --tokens"),
    "groups too rare": ("lm --corpus words.txt --tokens word --cutoffs [99]", "--cutoffs: cutoffs"),
    "words of characters": ("lm --max-words 9", "--max-words has no effect here"),
    "pieces of words": ("lm --tokens word --subword-size 999", "--subword-size has no effect here"),
    "few pieces": (
        "lm --tokens subword --subword-size 9",
        "--subword-size is 9, expected at least",
    ),
    "fractions of pydoc": ("lm --valid-fraction 0.1", "--valid-fraction has no effect here"),
    "words of enwik8": ("lm --corpus enwik8 --tokens word", "symbols of enwik8 are its bytes"),
    "nothing to train on": (
        "lm --corpus small.txt --valid-fraction 0.5 --test-fraction 0.5",
        "leave nothing to train on",
    ),
    "decay of what": ("lm --decay 0.1", "--decay has no effect here; it needs --schedule plateau"),
    "momentum of adam": ("lm --momentum 0.9", "--momentum has no effect here"),
    "no end": ("copy --updates null", "nothing says when to stop; give --updates or --max-seconds"),
    "missing PTB folder": ("lm --corpus ptb --data-dir nowhere", "no such folder"),
    "data dir of pydoc": ("lm --data-dir nowhere", "--data-dir has no effect here"),
    "empty text": ("lm --corpus empty.txt", "empty.txt: empty"),
    "missing text": ("lm --corpus missing.txt", "missing.txt: No such file"),
    "huge batch": ("lm --corpus small.txt --batch 5000", "--batch 5000: 900 tokens for 5000 rows"),
    "missing config": ("copy --config missing.yaml", "give a YAML file, or one of: ptb-char-paper"),
    "unknown key": ("copy --config bad.yaml", "'chunk_lenght' is not accepted"),
    "config of another": ("copy --config lm.yaml", "--recipe: Expected"),
    "out exists": ("copy --out full", "--out full exists and is not an empty folder"),
    "resume nothing": ("copy --resume nowhere", "nowhere is not the folder of a run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(mistake, capsys):
    Path("empty.txt").touch()
    Path("small.txt").write_text("ab" * 500)
    Path("words.txt").write_text("tick tock\n" * 500)
    Path("bad.yaml").write_text("chunk_lenght: 3\n")
    Path("lm.yaml").write_text("recipe: lm\n")
    Path("full").mkdir()
    Path("full/note").touch()
    words, expected = MISTAKES[mistake]
    assert main(["run", *words.split()]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith("seqdni: error: ")
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_truncated_ptb_folder_is_refused(capsys):
    if not PTB.is_dir():
        pytest.skip("needs the Penn Treebank files")
    Path("ptb").mkdir()
    for split in ("train", "valid", "test"):
        text = (PTB / f"ptb.{split}.txt").read_text()
        Path(f"ptb/ptb.{split}.txt").write_text(text[:-5000] if split == "valid" else text)
    assert main(["run", "lm", "--corpus", "ptb", "--data-dir", "ptb"]) == 1
    error = capsys.readouterr().err
    assert "ptb.valid.txt" in error
    assert "expected 3370" in error


def test_ptb_runs_end_to_end(capsys):
    if not PTB.is_dir():
        pytest.skip("needs the Penn Treebank files")
    words = ["--corpus", "ptb", "--data-dir", str(PTB), "--max-tokens", "3000", *TINY]
    assert main(["run", "lm", *words, "--out", "out"]) == 0
    assert "test_bpc" in capsys.readouterr().out
    assert main(["eval", "out"]) == 0


@pytest.fixture
def run_of_copy():
    assert main(["run", "copy", "--updates", "10", "--out", "out", *TINY]) == 0
    return Path("out")


def test_resume_of_another_recipe_is_refused(run_of_copy, capsys):
    assert main(["run", "lm", "--resume", "out"]) == 1
    error = capsys.readouterr().err
    assert "out is a run of 'copy', not of 'lm'" in error
    assert "seqdni run copy --resume out" in error


def test_resume_cannot_change_what_is_computed(run_of_copy, capsys):
    assert main(["run", "copy", "--resume", "out", "--hidden", "9"]) == 1
    assert "--hidden cannot change when a run is resumed" in capsys.readouterr().err


def test_damaged_checkpoints_are_named(run_of_copy, capsys):
    whole = (run_of_copy / "last.pt").read_bytes()
    (run_of_copy / "last.pt").write_bytes(whole[: len(whole) // 2])
    assert main(["run", "copy", "--resume", "out", "--updates", "20"]) == 1
    assert "last.pt cannot be read as a checkpoint" in capsys.readouterr().err
    (run_of_copy / "last.pt").unlink()
    assert main(["eval", "out"]) == 1
    assert "has no last.pt" in capsys.readouterr().err


@pytest.mark.parametrize("content", [[1, 2], {}, {"trainer": 3}], ids=str)
def test_a_foreign_checkpoint_is_named(run_of_copy, capsys, content):
    torch.save(content, "out/last.pt")
    for words in (["run", "copy", "--resume", "out", "--updates", "20"], ["eval", "out"]):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert "last.pt does not fit" in error
        assert error.count("\n") == 1


def test_an_empty_checkpoint_is_named(run_of_copy, capsys):
    Path("out/last.pt").write_bytes(b"")
    assert main(["eval", "out"]) == 1
    assert "last.pt cannot be read as a checkpoint" in capsys.readouterr().err


def test_eval_refuses_what_it_would_ignore(run_of_copy, capsys):
    assert main(["eval", "out", "--data-dir", "nonsense"]) == 1
    assert "--data-dir has no effect" in capsys.readouterr().err
    assert main(["eval", "out", "--text", "nonsense"]) == 1
    assert "--text, --split and --unknown are for runs of lm" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_is_named(run_of_copy, capsys):
    saved = torch.load("out/last.pt", weights_only=True)
    saved["trainer"]["model"]["readout.bias"] = torch.zeros(99)
    torch.save(saved, "out/last.pt")
    for words in (["run", "copy", "--resume", "out", "--updates", "20"], ["eval", "out"]):
        assert main(words) == 1
        assert "last.pt does not fit" in capsys.readouterr().err


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_checkpoint_from_a_stranger_executes_nothing(run_of_copy, capsys):
    torch.save({"trainer": Payload()}, "out/last.pt")
    assert main(["eval", "out"]) == 1
    Path("out/last.pt").write_bytes(pickle.dumps(Payload()))
    assert main(["eval", "out"]) == 1
    assert not Path("executed").exists()
    assert "cannot be read as a checkpoint" in capsys.readouterr().err


@pytest.fixture
def run_of_lm():
    Path("verse.txt").write_text("abcd " * 200)
    words = ["--corpus", "verse.txt", "--updates", "5", "--out", "out", *TINY]
    assert main(["run", "lm", *words]) == 0
    return Path("out")


def test_unknown_symbols_are_named(run_of_lm, capsys):
    Path("other.txt").write_text("abcd Z" * 10)
    assert main(["eval", "out", "--text", "other.txt"]) == 1
    assert "character 'Z' at position 5" in capsys.readouterr().err
    assert main(["sample", "out", "--prompt", "Zab"]) == 1
    assert "character 'Z' at position 0" in capsys.readouterr().err


@pytest.mark.parametrize("content", [[1, 2], {}, {"trainer": 3}], ids=str)
def test_foreign_checkpoints_of_a_text_run_are_named(run_of_lm, capsys, content):
    for name in ("best", "last"):
        torch.save(content, f"out/{name}.pt")
    for command, name in (("eval", "best"), ("sample", "best"), ("horizon", "last")):
        assert main([command, "out"]) == 1
        error = capsys.readouterr().err
        assert f"{name}.pt does not fit" in error
        assert error.count("\n") == 1


def test_another_text_can_be_scored(run_of_lm, capsys):
    Path("other.txt").write_text("dcba " * 10)
    assert main(["eval", "out", "--text", "other.txt"]) == 0
    assert "bpc" in capsys.readouterr().out


def test_a_corpus_that_changed_is_refused(run_of_lm, capsys):
    Path("verse.txt").write_text("abcdX " * 200)
    assert main(["eval", "out"]) == 1
    assert "verse.txt is not the text that the run was trained on" in capsys.readouterr().err
    Path("verse.txt").write_text("dcba " * 200)  # the same symbols and length, another text
    assert main(["run", "lm", "--resume", "out", "--updates", "9"]) == 1
    assert "verse.txt is not the text that the run was trained on" in capsys.readouterr().err


def test_sample_refuses_nonsense(run_of_lm, capsys):
    assert main(["sample", "out", "--length", "0"]) == 1
    assert "expected at least 1" in capsys.readouterr().err


OF_WORDS = [["--version"], ["--print-completion", "bash"], ["--print-completion", "zsh"]]


@pytest.mark.parametrize("words", OF_WORDS)
def test_what_prints_and_leaves(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    if words[0] == "--version":
        assert printed == f"seqdni {seqdni.__version__}\n"
        assert metadata.version("seqdni") == seqdni.__version__
    else:
        assert "--chunk-len" in printed
        assert "dni-aux" in printed


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "seqdni", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"seqdni {seqdni.__version__}\n"


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_is_in_groups_the_common_options_first(recipe, capsys):
    shown = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main(["run", recipe, word])
        shown[word] = capsys.readouterr().out
        titles = ["data", "model", "optimisation", "synthetic gradients", "limits", "output"]
        places = [shown[word].index(f"\n{title}:\n") for title in titles]
        assert places == sorted(places)
    assert "--ridge" in shown["--help-all"]
    assert "--ridge" not in shown["--help"]
    assert "other options" not in shown["--help-all"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_text_of_the_help_can_be_read_alone(recipe):
    for each in fields(RECIPES[recipe].options):
        if each.metadata:
            first = each.metadata["help"].split()[0]
            assert first not in ("of", "that", "and", "with", "its", "their"), each.name


def test_resume_needs_no_recipe_and_a_finished_run_says_so(run_of_copy, capsys):
    before = (run_of_copy / "result.json").read_bytes()
    capsys.readouterr()
    assert main(["run", "--resume", "out"]) == 0
    printed = capsys.readouterr().out
    assert "out is finished: it has reached --updates 10" in printed
    assert "seqdni run --resume out --updates 20" in printed
    assert (run_of_copy / "result.json").read_bytes() == before
    assert main(["run", "--resume=out", "--updates", "20"]) == 0
    assert "20" in (run_of_copy / "result.json").read_text()


def test_off_a_terminal_the_first_line_comes_within_seconds(capsys):
    words = ["copy", "--updates", "1000000", "--max-seconds", "3", "--log-every", "100000", *TINY]
    assert main(["run", *words, "--out", "out"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "% after" in line]
    assert len(lines) == 1
    assert re.search(r"% after 2 s: \d+ updates, [\d,]+ tokens$", lines[0])


def test_horizon_shows_no_share_and_no_ratio_where_there_is_no_energy():
    silent = Agreement(step=4, cosine=0.0, norm_ratio=3e150, r2=-9e300)
    nothing = Agreement(step=8, cosine=0.0, norm_ratio=0.0, r2=1.0)
    true = Agreement(step=12, cosine=0.5, norm_ratio=2.0, r2=0.1)
    lags = [Lag(steps=4, energy=1.0, share=0.3), Lag(steps=8, energy=0.0, share=0.0)]
    nan = float("nan")
    Path("out").mkdir()
    found = Horizon([silent, nothing, true], lags, 4, [1.0, 0.1], nan, nan, float("inf"), nan)
    lines = report(RunDirectory("out"), found).splitlines()
    assert lines[1].split() == ["4", "-", "-", "-"]
    assert lines[2].split() == ["8", "-", "-", "-"]
    assert lines[3].split() == ["12", "0.500", "2.000", "0.100"]
    assert lines[7].split() == ["8", "steps", "later", "-", "0.000"]
    written = json.loads(Path("out/horizon.json").read_text())
    assert written["lags"][1]["share"] is None
    assert written["boundaries"][0]["norm_ratio"] is None
