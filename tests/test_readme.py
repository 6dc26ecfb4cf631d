"""What the README shows is run: the loops, their difference, and the words of its commands."""

from __future__ import annotations

import difflib
import re

import pytest
import torch
from pages import ROOT, check_command, commands

from seqdni.corpora import pydoc_text

README = (ROOT / "README.md").read_text()


def block(name):
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block {name!r}"
    return found[1]


def chunks(count, steps=5):
    """English from Python's manual, 50 symbols, 32 rows."""
    codes = pydoc_text().train[: 32 * (count * steps + 1)].encode("ascii", "replace")
    tokens = torch.tensor(list(codes)).view(32, -1).T % 50
    for k in range(count):
        now = tokens[k * steps : (k + 1) * steps + 1]
        yield torch.nn.functional.one_hot(now[:-1], 50).float(), now[1:]


def execute(name):
    torch.manual_seed(0)
    names = {"chunks": list(chunks(150))}
    exec(compile(block(name), f"README {name}", "exec"), names)
    return names


def test_at_most_six_lines_make_the_loop_a_dni_loop():
    before, after = block("before").splitlines(), block("after").splitlines()
    added = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert len(added) <= 6


def test_the_readme_is_read_in_two_minutes():
    assert len(README.splitlines()) <= 120


def test_both_loops_run_and_learn():
    first = torch.log(torch.tensor(50.0))
    before, after = execute("before"), execute("after")
    assert before["loss"] < 0.9 * first
    assert after["loss"] < 0.9 * first
    synthesizer = after["boundary"].synthesizer
    assert synthesizer.head.weight.abs().sum() > 0
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before["lstm"].parameters(), after["lstm"].parameters(), strict=True)
    )


COMMANDS = commands(README)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse(command):
    check_command(command)


def test_the_set_up_commands_are_the_ones_that_the_gate_reads():
    assert len(COMMANDS) >= 3
    for name in ("run", "tests"):
        found = re.search(rf"<!-- {name} -->\n\n    (.+)\n", README)
        assert found
        assert "-c constraints.txt" in found[1]
