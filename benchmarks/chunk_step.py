"""What one chunk costs: each trainer against plain TBPTT written by hand, in one process.

The baseline is the loop a person writes today: ``nn.LSTM``, detach, cross-entropy, backward, clip,
Adam. Every contender gets the same model, tokens, clip and optimiser settings. Times are medians of
interleaved repeats (a round times every contender once), so that drift of the machine hits all
alike; read the ratios. That of least squares, which solves in one chunk of many, is of means, and
needs enough ``--seconds`` for a few solutions. Look-ahead is of 4 steps, overlapping chunks run one
chunk again. Full BPTT runs over episodes of 8 chunks; its time is per chunk, its memory that of an
episode. Memory is the peak allocated during one update, above what was allocated before; a graph
has memory of its own besides (``graph_bytes``).

``2017 scheme`` and ``ignite`` are other ways to do it, see ``peers.py``. The second is plain TBPTT,
and its time includes the run of its engine over 8 chunks.

On a CPU with one thread the times are those of the processor, which other programs on the machine
disturb less; else they are those of the clock.

``captured`` after a name means that a CUDA graph computes each chunk (``Trainer(capture=True)``; by
hand: the loop in one graph), ``compiled`` that compiled layers run the LSTM
(``TorchCore(compiled=True)``). With ``--kernels`` a row also has the number of kernels of a chunk
on the GPU, and the share of the time in which it computes.

    python benchmarks/chunk_step.py
    python benchmarks/chunk_step.py --chunk-len 4 --hidden 256 --batch 64 --json rows.jsonl
    python benchmarks/chunk_step.py --device cuda --trainers "by hand" dni "dni captured"
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import SPLITS, scheme_of_2017, with_ignite
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from seqdni import (
    Boundary,
    Critic,
    Learner,
    LeastSquares,
    MLPSynthesizer,
    OneHot,
    Overlap,
    SequenceModel,
    SyntheticGradients,
    TorchCore,
    Trainer,
    Whitening,
)

SYMBOLS = 50
EPISODE = 8  # chunks
AHEAD = 4  # steps
YOUNG = 110  # chunks before the averages of a synthesizer have settled, so that it can be captured
CAPTURED, COMPILED = " captured", " compiled"
# MLP as the recipes build it, with the auxiliary task, with the paper's width, on the whitened
# state; linear; solved, as the copy recipes build it; a critic of one answer, as recall builds it.
SYNTHESIZERS = {
    "dni": lambda hidden: MLPSynthesizer(2 * hidden, (hidden // 2,)),
    "dni-aux": lambda hidden: MLPSynthesizer(2 * hidden, (hidden // 2,), aux=True),
    "dni wide": lambda hidden: MLPSynthesizer(2 * hidden, (hidden,)),
    "dni whitened": lambda hidden: MLPSynthesizer(
        2 * hidden, (hidden // 2,), activation=nn.Tanh, whitening=Whitening(2 * hidden)
    ),
    "dni linear": lambda hidden: MLPSynthesizer(2 * hidden, ()),
    "dni rls": lambda hidden: LeastSquares(2 * hidden),
    "critic": lambda hidden: Critic(2 * hidden, classes=SYMBOLS),
}
PEERS = {"2017 scheme": scheme_of_2017, "ignite": with_ignite}
EAGER = ("by hand", *PEERS, "tbptt", "bptt", *SYNTHESIZERS, "look-ahead", "overlap")
PARTS = {"bptt": EPISODE, "ignite": SPLITS}  # chunks in one call
CAPTURABLE = ("by hand", "tbptt", *SYNTHESIZERS, "look-ahead")
TRAINERS = (
    *EAGER,
    *(name + CAPTURED for name in CAPTURABLE),
    *(name + COMPILED for name in EAGER if name not in ("by hand", *PEERS)),
)


def by_hand(
    steps: int, hidden: int, rows: int, device: str, captured: bool = False
) -> Callable[[], None]:
    """Plain TBPTT, nothing of seqdni in it."""
    lstm = nn.LSTM(SYMBOLS, hidden).to(device)
    readout = nn.Linear(hidden, SYMBOLS).to(device)
    parameters = [*lstm.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=captured)
    tokens = torch.randint(SYMBOLS, (steps + 1, rows), device=device)
    one_hot = torch.eye(SYMBOLS, device=device)
    state = (torch.zeros(1, rows, hidden, device=device),) * 2

    def chunk() -> None:
        nonlocal state
        start = tuple(x.detach() for x in state)
        y, end = lstm(functional.embedding(tokens[:-1], one_hot), start)
        logits = readout(y).flatten(0, 1)
        loss = functional.cross_entropy(logits, tokens[1:].flatten(), reduction="sum") / rows
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if captured:
            with torch.no_grad():
                for kept, now in zip(state, end, strict=True):
                    kept.copy_(now)
        else:
            state = end

    if not captured:
        return chunk
    state = tuple(x.clone() for x in state)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            chunk()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chunk()

    def replayed(_keeps: Callable[[], None] = chunk) -> None:  # the buffers that the graph uses
        graph.replay()

    return replayed


def with_trainer(
    name: str, steps: int, hidden: int, rows: int, device: str
) -> tuple[Trainer, Callable[[], None]]:
    """A trainer and its update: a chunk, or for ``bptt`` an episode of ``EPISODE`` chunks.

    A captured one has run so many chunks that all kinds of them have a graph.
    """
    capture, name = name.endswith(CAPTURED), name.removesuffix(CAPTURED)
    compiled, name = name.endswith(COMPILED), name.removesuffix(COMPILED)
    core = TorchCore(nn.LSTM(SYMBOLS, hidden), compiled=compiled)
    model = SequenceModel(OneHot(SYMBOLS), core, nn.Linear(hidden, SYMBOLS)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    condition = None
    if name in SYNTHESIZERS:
        synthesizer = SYNTHESIZERS[name](hidden)
        bound = None if name == "critic" else 1.0
        boundary = Boundary(synthesizer, bound=bound).to(device)
        if name == "dni rls":
            credit = SyntheticGradients(boundary)
        else:
            descent = torch.optim.Adam(boundary.parameters(), lr=1e-3, fused=True)
            credit = SyntheticGradients(boundary, descent, clip=1.0)
        if isinstance(synthesizer, Critic):
            answers = torch.randint(SYMBOLS, (1, rows))
            told_BK = synthesizer.condition(answers).to(device)
            condition = (told_BK, told_BK)
    elif name == "look-ahead":
        credit = SyntheticGradients(Boundary(None))
    else:
        credit = Overlap(1) if name == "overlap" else None
    trainer = Trainer(model, Learner(optimizer, clip=1.0), credit, capture=capture)
    length = steps * EPISODE if name == "bptt" else steps
    tokens = torch.randint(SYMBOLS, (length + 1, rows), device=device)
    chunk = (tokens[:-1], tokens[1:], None, None)
    next_tokens = torch.randint(SYMBOLS, (AHEAD + 1, rows), device=device)
    ahead = (next_tokens[:-1], next_tokens[1:], None, None) if name == "look-ahead" else None
    step = lambda: trainer.step(chunk, condition=condition, ahead=ahead)  # noqa: E731
    if capture:
        solve_every = getattr(trainer.boundary and trainer.boundary.synthesizer, "solve_every", 0)
        for _ in range(YOUNG + 4 * solve_every):
            step()
        assert trainer.captured is not None
        if not trainer.captured.replayed:
            raise RuntimeError(f"not captured: {dict(trainer.captured.eager)}")
    return trainer, step


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """Peak of what one call allocates, above what was allocated before it."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    recorded_events: list[Any] = recorded.profiler.kineto_results.events()  # more than its stub has
    events = [e for e in recorded_events if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def graph_bytes() -> int:
    """Memory that belongs to all graphs of this process."""
    if not torch.cuda.is_available():
        return 0
    own = [
        each for each in torch.cuda.memory_snapshot() if tuple(each["segment_pool_id"]) != (0, 0)
    ]
    return sum(each["total_size"] for each in own)


def on_device(step: Callable[[], None], calls: int = 4) -> tuple[float, float]:
    """Kernels of a call, and the seconds that the device computes in it."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        for _ in range(calls):
            step()
        torch.cuda.synchronize()
    events = recorded.events() or []
    kernels = [e for e in events if e.device_type.name == "CUDA"]
    busy = sum(e.time_range.elapsed_us() for e in kernels)
    return len(kernels) / calls, busy / 1e6 / calls


def seconds(step: Callable[[], None], calls: int, device: str) -> float:
    """Time of one call, mean over ``calls``."""
    one_thread = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(calls):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / calls


def build(
    names: tuple[str, ...], steps: int, hidden: int, rows: int, device: str
) -> dict[str, tuple[Callable[[], None], int]]:
    """The contenders with the memory of their graphs. One that fails is left out, and says why."""
    contenders: dict[str, tuple[Callable[[], None], int]] = {}
    for name in names:
        before = graph_bytes()
        try:
            if name.removesuffix(CAPTURED) == "by hand":
                step = by_hand(steps, hidden, rows, device, name.endswith(CAPTURED))
            elif name in PEERS:
                step = PEERS[name](SYMBOLS, steps, hidden, rows, device)
            else:
                _, step = with_trainer(name, steps, hidden, rows, device)
            seconds(step, 3, device)
        except Exception as error:  # the others are still to be measured
            what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            print(f"{hidden:>5} {steps:>3} {rows:>4}  {name}: {what}", file=sys.stderr, flush=True)
            continue
        contenders[name] = step, graph_bytes() - before
    return contenders


def measure(
    names: tuple[str, ...],
    steps: int,
    hidden: int,
    rows: int,
    device: str,
    budget: float,
    count_kernels: bool = False,
) -> list[dict]:
    """One row a contender, the baseline first."""
    built = build(names, steps, hidden, rows, device)
    contenders = {name: step for name, (step, _) in built.items()}
    once = {name: seconds(step, 2, device) for name, step in contenders.items()}
    rounds = 15 if device == "cpu" else 7
    if device == "cpu":
        same = max(1, int(budget / rounds / sum(once.values())))
        calls = dict.fromkeys(contenders, same)
    else:  # the same time for each, since captured steps are many times faster
        share = budget / rounds / len(contenders)
        calls = {name: max(2, int(share / time_once)) for name, time_once in once.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            times[name].append(seconds(step, calls[name], device))
    rows_out = []
    for name, step in contenders.items():
        per_chunk = [t / PARTS.get(name, 1) for t in times[name]]
        ratios = [a / b for a, b in zip(per_chunk, times["by hand"], strict=True)]
        seconds_spent, ratio = statistics.median(per_chunk), statistics.median(ratios)
        if name.startswith("dni rls"):
            seconds_spent = statistics.mean(per_chunk)
            ratio = seconds_spent / statistics.mean(times["by hand"])
        row = {
            "program": "benchmarks/chunk_step.py",
            "torch": torch.__version__,
            "trainer": name,
            "chunk_len": steps,
            "hidden": hidden,
            "batch": rows,
            "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "ms_per_chunk": round(1e3 * seconds_spent, 4),
            "ratio_to_plain": round(ratio, 3),
            "peak_bytes": peak_bytes(step, device),
        }
        if name.endswith(CAPTURED):
            row["graph_bytes"] = built[name][1]
        if count_kernels:
            kernels, busy = on_device(step)
            row |= {"kernels": round(kernels), "busy_share": round(busy / seconds_spent, 3)}
        rows_out.append(row)
    return rows_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunk-len", type=int, nargs="+", default=[2, 4, 8, 20], help="T")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 1024], help="H")
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="B (default: 64)")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, help="default: all eager ones")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=8.0, help="budget a cell (default: 8)")
    parser.add_argument(
        "--kernels", action="store_true", help="also count kernels, and measure the busy share"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="add the rows to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    names = tuple(dict.fromkeys(["by hand", *(options.trainers or EAGER)]))
    torch.manual_seed(0)
    print(
        f"{'H':>5} {'T':>3} {'B':>4}  {'trainer':<21} {'ms/chunk':>9} {'ratio':>6} {'peak MB':>8}"
    )
    cells = [
        (steps, hidden, rows)
        for hidden in options.hidden
        for rows in options.batch
        for steps in options.chunk_len
    ]
    for cell in cells:
        steps, hidden, rows = cell
        for row in measure(names, *cell, options.device, options.seconds, options.kernels):
            device = f"{row['kernels']:>5} kernels" if options.kernels else ""
            print(
                f"{hidden:>5} {steps:>3} {rows:>4}  {row['trainer']:<21} "
                f"{row['ms_per_chunk']:>9.3f} {row['ratio_to_plain']:>6.2f} "
                f"{row['peak_bytes'] / 1e6:>8.2f}{device}",
                flush=True,
            )
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
