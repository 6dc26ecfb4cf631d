"""Bad command lines, configs and values, one row each, and the one line that answers them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from runs import TINY

from seqdni.recipes.cli import main
from seqdni.recipes.saved_run import saved_run

WORDS = {
    "": "the following arguments are required: COMMAND",
    "evall run": "invalid choice: 'evall'",
    "--verson": "see: seqdni --help",
    "eval": "the following arguments are required: DIR",
    "eval a b": "unrecognized arguments: b",
    "eval run --spilt test": "did you mean --split?",
    "eval run --split tests": "invalid choice: 'tests'",
    "eval nowhere": "nowhere is not the folder of a run",
    "eval small.txt": "small.txt is not the folder of a run",
    "eval .": ". is not the folder of a run",
    "eval run --device meta": "--device meta",
    "eval run --device tpu": "--device tpu",
    "eval run --text small.txt": "--text, --split and --unknown are for runs of lm",
    "sample run --seed -1": "--seed is -1, expected 0 to",
    "sample run --seed 9223372036854775808": "--seed is 9223372036854775808, expected 0 to",
    "sample run --seed 99999999999999999999999": "--seed is 99999999999999999999999, expected",
    "sample run --seed one": "invalid int value: 'one'",
    "sample run --length 0": "--length is 0, expected at least 1",
    "sample run --length 1e9": "invalid int value: '1e9'",
    "sample run --length 1000000000000000": "not enough memory",
    "sample run --temperature -1": "--temperature is -1.0, expected",
    "sample run --temperature nan": "--temperature is nan, expected",
    "sample run --temperature inf": "--temperature is inf, expected",
    "sample run --top-k 0": "--top-k is 0, expected at least 1",
    "sample run --promt x": "did you mean --prompt?",
    "sample run --prompt x": "--prompt, --temperature and --top-k are for runs of lm",
    "horizon run --length 0": "--length is 0, expected at least 1",
    "horizon run --length 1": "no boundary to look at",
    "horizon nowhere": "nowhere is not the folder of a run",
    "export nowhere": "nowhere is not the folder of a run",
    "export run --out small.txt": "small.txt: File exists",
    "plot": "the following arguments are required: DIR",
    "plot run --against time": "invalid choice: 'time'",
    "plot run --metric cost": "run has no metric 'cost'",
    "plot run --out picture.gif": "expected a name that ends in .png or .svg",
    "plot run --out none/picture.png": "there is no folder none",
    "run": "the following arguments are required: RECIPE",
    "run copi": "no recipe 'copi'; did you mean copy?",
    "run transformer": "there are: copy, repeat-copy",
    "run --updates 3": "which recipe? Give one of copy",
    "run --resume": "which recipe?",
    "run --resume nowhere": "nowhere is not the folder of a run",
    "run --resume run --hidden 9": "--hidden cannot change when a run is resumed",
    "run --resume run --updates 0": "--updates is 0, expected at least 1",
    "run --resume run --seed 1": "--seed cannot change",
    "run lm --resume run": "run is a run of 'copy', not of 'lm'",
    "run copy --resume": "argument --resume: expected one argument",
    "run copy extra": "unrecognized arguments: extra",
    "run copy --chunk-lenght 3": "did you mean --chunk-len?",
    "run copy --learning-rate 1": "--learning-rate",
    "run lm --synthesiser rls": "did you mean --synthesizer?",
    "run copy --lessons 0.5": "its name is now --train-fraction",
    "run count-digits --hint false": "its name is now --condition",
    "run copy --compiled true --core rnn": "--compiled is for --core lstm or gru, got rnn",
    "run count-digits --compiled true --core rnn": "--compiled is for --core lstm or gru",
    "run lm --compiled true --precision bfloat16": "--compiled computes in float32",
    "run copy --chunk-len": "--chunk-len: expected one argument",
    "run copy --chunk-len 1.5": "--chunk-len: Expected a <class 'int'>. Got value: 1.5",
    "run copy --chunk-len null": "--chunk-len: Expected a <class 'int'>. Got value: None",
    "run copy --chunk-len true": "--chunk-len: Expected a <class 'int'>. Got value: True",
    "run copy --chunk-len 100000000000000000000": "expected at most 9223372036854775807",
    "run copy --hidden 1000000000": "need 128,000,000,512 GB, and this machine has",
    "run copy --layers 1000000000": "--layers 1000000000",
    "run copy --batch 1000000000": "--batch 1000000000",
    "run count-digits --hidden 100000000": "and this machine has",
    "run copy --symbols 100000000000": "not enough memory for another",
    "run adding --length 1000000000000": "not enough memory for another",
    "run recall --distractors 1000000000000": "not enough memory for another",
    "run repeat-copy --max-repeats 100000000000000000": "not enough memory",
    "run copy --synthesizer mlp --synth-hidden 1000000000000": "not enough memory for another",
    "run lm --corpus small.txt --embedding 1000000000000": "not enough memory for another",
    "run copy --threads 100000000": "--threads is 100000000, expected at most 1024",
    "run copy --threads 0": "--threads is 0, expected at least 1",
    "run copy --trainer influence --hidden 100000 --batch 1000": "--batch 1000 need 321,282 GB",
    "run copy --device meta": "--device meta",
    "run copy --device": "--device: expected one argument",
    "run copy --lr inf": "--lr: Expected a <class 'float'>. Got value: inf",
    "run copy --lr 0": "--lr is 0.0, expected more than 0",
    "run copy --lr fast": "--lr: Expected a <class 'float'>. Got value: fast",
    "run copy --clip nan": "--clip: Expected",
    "run copy --seed -1": "--seed is -1, expected at least 0",
    "run copy --max-seconds 0": "--max-seconds is 0.0, expected more than 0",
    "run copy --log-every 0": "--log-every is 0, expected at least 1",
    "run copy --bound 0": "--bound is 0.0, expected more than 0",
    "run copy --recipe lm": "--recipe: Expected a typing.Literal['copy']",
    "run copy --config": "argument --config: expected one argument",
    "run copy --config nosuch": "give a YAML file, or one of: ptb-char-paper, ptb-char-small",
    "run copy --config .": "--config .: Is a directory",
    "run copy --config ptb-word-small": "is not accepted",
    "run copy --print_config=all": "Invalid option",
    "run copy --out small.txt": "--out small.txt exists and is not an empty folder",
    "run copy --out small.txt/run": "Not a directory",
    "run lm --corpus nowhere": "nowhere: No such file",
    "run lm --data-dir small.txt --corpus ptb": "not a folder",
    "run mnist": "mnist needs --data-dir",
    "run mnist --data-dir small.txt": "not a folder",
    # without an effect, given at its default
    "run copy --trainer tbptt --look-ahead 0": "--look-ahead has no effect here",
    "run lm --trainer tbptt --look-ahead 4": "--look-ahead has no effect here",
    "run copy --trainer tbptt --grad-scale 1": "--grad-scale has no effect here",
    "run copy --trainer tbptt --grad-scale=1": "--grad-scale has no effect here",
    "run copy --synth-lr 1e-3": "--synth-lr has no effect here",
    "run copy --history 1": "--history has no effect here",
    "run copy --core gru --forget-bias 0": "--forget-bias has no effect here",
    "run copy --recompute false": "--recompute has no effect here",
    "run lm --momentum 0": "--momentum has no effect here",
    "run lm --decay 0.5": "--decay has no effect here",
    "run lm --period 8": "--period has no effect here",
    "run lm --subword-size 4000": "--subword-size has no effect here",
    "run mnist --data-dir . --permute-seed 0": "--permute-seed has no effect here",
    "run lm --hierarchy 2 --horizon-every 9": "--horizon-every has no effect here; it needs --hier",
    "run lm --hierarchy 2 --update-every episode": "--update-every episode: a text has no episodes",
    "run count-digits --trainer joint --condition true": "--condition has no effect here",
}
CONFIGS = {
    "latin-1": (b"core: lstm # caf\xe9\n", "byte 16 is not UTF-8"),
    "utf-16": ("core: lstm\n".encode("utf-16"), "is not UTF-8"),
    "key twice": (b"lr: 1.0e-3\nlr: 2.0e-3\n", "'lr' is there twice"),
    "unknown key": (
        b"chunk_lenght: 3\n",
        "'chunk_lenght' is not accepted; did you mean chunk_len?",
    ),
    "hyphens": (b"chunk-len: 3\n", "did you mean chunk_len?"),
    "earlier name": (b"synth_steps: 3\n", "its name is now updates_per_chunk"),
    "list": (b"- lr\n- hidden\n", "expected options by name"),
    "text": (b"hello\n", "expected options by name"),
    "numbers for names": (b"1: 2\n", "expected options by name"),
    "tabs": (b"core:\tlstm\n\thidden: 3\n", "line"),
    "open bracket": (b"hidden: [3\n", "line"),
    "null for a number": (b"hidden: null\n", "--hidden"),
    "text for a number": (b"hidden: wide\n", "--hidden: Expected"),
    "true for a number": (b"hidden: true\n", "--hidden"),
    "list for a number": (b"hidden: [3]\n", "--hidden: Expected"),
    "parts for a number": (b"hidden: {a: 3}\n", "--hidden: Expected"),
    "negative": (b"hidden: -3\n", "--hidden is -3, expected at least 1"),
    "no number": (b"lr: .nan\n", "--lr"),
    "beyond 64 bits": (b"seed: 99999999999999999999\n", "--seed is 99999999999999999999"),
    "another recipe": (b"recipe: lm\n", "--recipe: Expected"),
    "number for a recipe": (b"recipe: 3\n", "--recipe: Expected"),
    "null character": (b'out: "a\\0b"\n', "--out has a character of number 0"),
    "bytes": (b"\x00\x01\x02", "bad.yaml"),
    # hostile: nothing of it may run
    "system": (b"hidden: !!python/object/apply:os.system ['touch executed']\n", "bad.yaml"),
    "apply": (b"!!python/object/apply:os.mkdir ['executed']\n", "bad.yaml"),
    "new": (b"a: !!python/object/new:os.system ['touch executed']\n", "bad.yaml"),
    "name": (b"core: !!python/name:os.system\n", "bad.yaml"),
    "module": (b"core: !!python/module:antigravity\n", "bad.yaml"),
    "own tag": (b"core: !run touch executed\n", "bad.yaml"),
    "tuple": (b"core: !!python/tuple [1, 2]\n", "bad.yaml"),
    "class path": (b"core: {class_path: os.system, init_args: {command: ls}}\n", "--core"),
    "class path for all": (b"class_path: subprocess.Popen\ninit_args: {args: [ls]}\n", "bad.yaml"),
    "bomb": (b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "it has an anchor"),
    "merge": (b"<<: {hidden: 3}\n", "it has a merge"),
    "itself": (b"hidden: &x [*x]\n", "it has an anchor"),
    "brackets": (b"hidden: " + b"[" * 5000 + b"]" * 5000, "brackets in brackets"),
    "another config": (b"config: other.yaml\n", "'config' is not accepted"),
    "resume": (b"resume: run\n", "resume is not accepted in a config"),
    "help": (b"help: true\n", "'help' is not accepted"),
    "print": (b"print_config: true\n", "'print_config' is not accepted"),
    "underscores": (b"__class__: x\n", "'__class__' is not accepted"),
    "jsonnet": (b"local x = import 'y'; {}\n", "bad.yaml"),
    "two documents": (b"hidden: 3\n---\nhidden: 4\n", "bad.yaml"),
    "omegaconf": (b"hidden: ${oc.env:HOME}\n", "--hidden: Expected"),
    "set": (b"core: !!set {a, b}\n", "--core: Expected"),
    "binary": (b"core: !!binary aGk=\n", "--core: Expected"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of copy and a text, in which nothing below leaves anything."""
    folder = tmp_path_factory.mktemp("refused")
    words = ["--updates", "10", *TINY, "--out", str(folder / "run")]
    assert main(["run", "copy", *words]) == 0
    (folder / "small.txt").write_text("ab" * 500)
    return folder


@pytest.fixture
def folder(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("SEQDNI_CACHE", str(made / "cache"))
    return made


def one_line(capsys, words):
    capsys.readouterr()
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("seqdni: error: ")
    assert error.count("\n") == 1
    assert not Path("executed").exists()
    assert not Path("runs").exists()
    return error


@pytest.mark.parametrize("words", WORDS)
def test_words(words, folder, capsys):
    assert WORDS[words] in one_line(capsys, words.split())


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name, folder, capsys):
    content, message = CONFIGS[name]
    Path("bad.yaml").write_bytes(content)
    assert message in one_line(capsys, ["run", "copy", "--config", "bad.yaml"])


SAVED = {
    "hidden": (None, "--hidden"),
    "layers": ("two", "config.yaml is damaged"),
    "trainer": ("magic", "config.yaml is damaged"),
    "core": (None, "--core"),
    "lr": (-1.0, "--lr is -1.0"),
    "seed": (10**30, "--seed is"),
    "batch": (0, "--batch is 0"),
    "chunk_len": ([4], "config.yaml is damaged"),
    "recipe": ("cooking", "which is no recipe here"),
    "colour": ("red", "options that this version does not know: ['colour']"),
    "threads": (10**8, "--threads is 100000000"),
    "lessons": (0.5, "options that this version does not know: ['lessons']"),  # and train_fraction
    "symbols": (None, "--symbols"),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_config_of_a_run_that_was_edited(name, folder, capsys, tmp_path):
    value, message = SAVED[name]
    saved = yaml.safe_load((folder / "run/config.yaml").read_text())
    for file in ("last.pt", "metrics.jsonl"):
        (tmp_path / file).write_bytes((folder / "run" / file).read_bytes())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**saved, name: value}))
    for words in (["eval"], ["sample"], ["horizon"], ["run", "--resume"]):
        assert message in one_line(capsys, [*words, str(tmp_path)])


def test_a_run_with_an_earlier_name_of_an_option_is_read(folder, tmp_path):
    saved = yaml.safe_load((folder / "run/config.yaml").read_text())
    del saved["train_fraction"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**saved, "lessons": 0.25}))
    assert saved_run(tmp_path)[2].train_fraction == 0.25


def test_there_are_enough_of_them():
    assert len(WORDS) + len(CONFIGS) + len(SAVED) >= 120
