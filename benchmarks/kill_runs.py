"""Kills random processes of runs in several processes, and continues the runs.

Each run is started by torchrun with ``--resume auto``: two whose parts train in processes of their
own (layers, count-digits), and one whose rows are dealt to the processes (copy). After a random
time one of its processes gets SIGKILL. All the others must end within ten seconds. The same command
is then started again, and at last it finishes the run. The weights must be those of a run that was
never killed, bit for bit: in one process where the parts train apart, else in as many processes.
For each kill the script prints how long the others went on, and how many of them said why they
ended (torchrun may end one before it notices).

    python benchmarks/kill_runs.py --kills 30
    python benchmarks/kill_runs.py --kills 10 --only copy
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

APART = ["--apart", "processes"]  # without it each process has all parts, and some of the rows
RUNS = {
    "layers": (
        *(3, APART),
        "--hidden-layers 2 --hidden 32 --trainer cdni --updates {steps} --log-every 20",
    ),
    "count-digits": (2, APART, "--hidden 16 --encoder 16 --max-tokens {tokens} --log-every 80"),
    "copy": (2, [], "--hidden 16 --chunk-len 4 --batch 8 --updates {copies}"),
}
LIMIT = 10  # seconds in which the other processes must have ended


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in task.read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def killed(command: list[str], processes: int, out: Path, chance: random.Random) -> str:
    """Start a run, and kill one of its processes; what happened, in words."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    torchrun = subprocess.Popen(command, **quiet)
    begun, checkpoint = time.monotonic(), out / "last.pt"
    before, workers = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0, []
    while torchrun.poll() is None and time.monotonic() - begun < 120:
        workers = children(torchrun.pid)
        going_on = checkpoint.exists() and checkpoint.stat().st_mtime_ns != before
        if len(workers) == processes and going_on:
            break
        time.sleep(0.02)
    if torchrun.poll() is not None:
        torchrun.communicate()
        return "finished" if torchrun.returncode == 0 else f"failed with {torchrun.returncode}"
    time.sleep(chance.uniform(0, 1))
    victim = chance.randrange(processes)
    if not alive(workers[victim]):
        torchrun.communicate()
        return "finished" if torchrun.returncode == 0 else f"failed with {torchrun.returncode}"
    os.kill(workers[victim], signal.SIGKILL)
    began = time.monotonic()
    while any(map(alive, workers)):
        assert time.monotonic() - began < LIMIT, f"processes are left: {workers}"
        time.sleep(0.01)
    seconds = time.monotonic() - began
    errors = torchrun.communicate(timeout=60)[1]
    said = [line for line in errors.splitlines() if line.startswith("seqdni: error:")]
    return f"killed process {victim}, the others ended in {seconds:.2f} s, {len(said)} lines"


def main() -> None:
    """Kill and continue all runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="of all runs together")
    parser.add_argument("--only", choices=list(RUNS), help="this recipe (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    runs = {name: run for name, run in RUNS.items() if given.only in (None, name)}
    chance, left = random.Random(given.seed), given.kills
    seqdni = [sys.executable, "-m", "seqdni", "run"]
    with tempfile.TemporaryDirectory() as folder:
        for number, (recipe, (processes, apart, words)) in enumerate(runs.items()):
            share, out = left // (len(runs) - number), Path(folder, recipe)
            length = {"steps": 200 * share, "tokens": 60_000 * share, "copies": 100 * share}
            options = [recipe, *words.format(**length).split(), "--threads", "1"]
            torchrun = [sys.executable, "-m", "torch.distributed.run"]
            torchrun += ["--nproc-per-node", str(processes), "-m", "seqdni", "run"]
            own = [*apart, "--checkpoint-seconds", "0.2", "--out", str(out), "--resume", "auto"]
            for _ in range(share):
                outcome = killed([*torchrun, *options, *own], processes, out, chance)
                print(f"{recipe}: {outcome}", flush=True)
                left -= 1
                if not outcome.startswith("killed"):
                    break
            quiet = {"check": True, "stdout": subprocess.DEVNULL}
            subprocess.run([*torchrun, *options, *own], **quiet)
            whole, start = Path(folder, f"{recipe}-whole"), seqdni if apart else torchrun
            subprocess.run([*start, *options, "--out", str(whole)], **quiet)
            models = [
                torch.load(each / "last.pt", weights_only=True)["trainer"]["model"]
                for each in (out, whole)
            ]
            same = all(torch.equal(x, models[1][name]) for name, x in models[0].items())
            print(f"{recipe}: bit for bit as a run that was not killed: {same}", flush=True)
            assert same


if __name__ == "__main__":
    main()
