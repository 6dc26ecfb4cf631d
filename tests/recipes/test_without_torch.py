"""Help, lists and completion are shown at once: nothing on their way imports torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = """
import sys
from seqdni.recipes.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("torch" in sys.modules, status or 0, file=sys.stderr)
"""


def run(words: str) -> tuple[str, str]:
    """What a command prints; and whether it imported torch, with its exit status."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words.split()], capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--help", "COMMAND"),
        ("--version", "seqdni "),
        ("ls", "repeat-copy"),
        ("run --help", "copy-memory"),
        ("run lm --help", "--chunk-len"),
        ("run copy --help-all", "--symbols"),
        ("run layers --help-all", "--synth-lr"),
        ("run mnist --help", "--permute"),
        ("run count-digits --help", "--data-dir"),
        ("sample --help", "--temperature"),
        ("--print-completion bash", "--update-probability"),
        ("--print-completion zsh", "--update-probability"),
    ],
)
def test_what_only_describes_does_not_import_torch(words, shown):
    output, imported = run(words)
    assert shown in output
    assert imported == "False 0"


@pytest.mark.parametrize("words", ["run lmm", "run lm --chunk-len many", "run lm --chunk-length 4"])
def test_a_wrong_word_is_refused_without_torch(words):
    assert run(words) == ("", "False 1")
