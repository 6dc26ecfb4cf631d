"""What one chunk costs: each trainer against plain TBPTT written by hand, in one process.

The baseline is the loop a person writes today: ``nn.LSTM``, detach, cross-entropy, backward, clip,
Adam. Every contender gets the same model, tokens, clip and optimiser settings. Times are medians of
interleaved repeats (a round times every contender once), so that drift of the machine hits all
alike; read the ratios. That of least squares, which solves in one chunk of many, is of means, and
needs enough ``--seconds`` for a few solutions. Look-ahead is of 4 steps, overlapping chunks run one
chunk again. Full BPTT runs over episodes of 8 chunks; its time is per chunk, its memory that of an
episode. Memory is the peak allocated during one update, above what was allocated before.

    python benchmarks/chunk_step.py
    python benchmarks/chunk_step.py --chunk-len 4 --hidden 256 --batch 64 --json rows.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from seqdni import (
    Boundary,
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
# MLP as the recipes build it, with the auxiliary task, with the paper's width, on the whitened
# state; linear; solved, as the copy recipes build it.
SYNTHESIZERS = {
    "dni": lambda hidden: MLPSynthesizer(2 * hidden, (hidden // 2,)),
    "dni-aux": lambda hidden: MLPSynthesizer(2 * hidden, (hidden // 2,), aux=True),
    "dni wide": lambda hidden: MLPSynthesizer(2 * hidden, (hidden,)),
    "dni whitened": lambda hidden: MLPSynthesizer(
        2 * hidden, (hidden // 2,), activation=nn.Tanh, whitening=Whitening(2 * hidden)
    ),
    "dni linear": lambda hidden: MLPSynthesizer(2 * hidden, ()),
    "dni rls": lambda hidden: LeastSquares(2 * hidden),
}


def by_hand(steps: int, hidden: int, rows: int, device: str) -> Callable[[], None]:
    """Plain TBPTT, nothing of seqdni in it."""
    lstm = nn.LSTM(SYMBOLS, hidden).to(device)
    readout = nn.Linear(hidden, SYMBOLS).to(device)
    parameters = [*lstm.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    tokens = torch.randint(SYMBOLS, (steps + 1, rows), device=device)
    one_hot = torch.eye(SYMBOLS, device=device)
    state = (torch.zeros(1, rows, hidden, device=device),) * 2

    def chunk() -> None:
        nonlocal state
        state = tuple(x.detach() for x in state)
        y, state = lstm(functional.embedding(tokens[:-1], one_hot), state)
        logits = readout(y).flatten(0, 1)
        loss = functional.cross_entropy(logits, tokens[1:].flatten(), reduction="sum") / rows
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return chunk


def with_trainer(name: str, steps: int, hidden: int, rows: int, device: str) -> Callable[[], None]:
    """One update of a seqdni trainer: a chunk, or for ``bptt`` an episode of ``EPISODE`` chunks."""
    core = TorchCore(nn.LSTM(SYMBOLS, hidden))
    model = SequenceModel(OneHot(SYMBOLS), core, nn.Linear(hidden, SYMBOLS)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    if name in SYNTHESIZERS:
        boundary = Boundary(SYNTHESIZERS[name](hidden), bound=1.0).to(device)
        if name == "dni rls":
            credit = SyntheticGradients(boundary)
        else:
            descent = torch.optim.Adam(boundary.parameters(), lr=1e-3, fused=True)
            credit = SyntheticGradients(boundary, descent, clip=1.0)
    elif name == "look-ahead":
        credit = SyntheticGradients(Boundary(None))
    else:
        credit = Overlap(1) if name == "overlap" else None
    trainer = Trainer(model, Learner(optimizer, clip=1.0), credit)
    length = steps * EPISODE if name == "bptt" else steps
    tokens = torch.randint(SYMBOLS, (length + 1, rows), device=device)
    chunk = (tokens[:-1], tokens[1:], None, None)
    next_tokens = torch.randint(SYMBOLS, (AHEAD + 1, rows), device=device)
    ahead = (next_tokens[:-1], next_tokens[1:], None, None) if name == "look-ahead" else None
    return lambda: trainer.step(chunk, ahead=ahead)


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
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, now)
    return peak


def seconds(step: Callable[[], None], calls: int, device: str) -> float:
    """Wall time of one call, mean over ``calls``."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def measure(steps: int, hidden: int, rows: int, device: str, budget: float) -> list[dict]:
    """One row a contender, the baseline first."""
    contenders = {"by hand": by_hand(steps, hidden, rows, device)}
    for name in ("tbptt", "bptt", *SYNTHESIZERS, "look-ahead", "overlap"):
        contenders[name] = with_trainer(name, steps, hidden, rows, device)
    for step in contenders.values():
        seconds(step, 3, device)
    once = sum(seconds(step, 2, device) for step in contenders.values())
    rounds = 15
    calls = max(1, int(budget / rounds / once))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            times[name].append(seconds(step, calls, device))
    rows_out = []
    for name, step in contenders.items():
        per_chunk = [t / EPISODE if name == "bptt" else t for t in times[name]]
        ratios = [a / b for a, b in zip(per_chunk, times["by hand"], strict=True)]
        seconds_spent, ratio = statistics.median(per_chunk), statistics.median(ratios)
        if name == "dni rls":
            seconds_spent = statistics.mean(per_chunk)
            ratio = seconds_spent / statistics.mean(times["by hand"])
        rows_out.append(
            {
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
        )
    return rows_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunk-len", type=int, nargs="+", default=[2, 4, 8, 20], help="T")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 1024], help="H")
    parser.add_argument("--batch", type=int, default=64, help="B (default: 64)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=8.0, help="budget a cell (default: 8)")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows: list[dict] = []
    print(f"{'H':>5} {'T':>3}  {'trainer':<11} {'ms/chunk':>9} {'ratio':>6} {'peak MB':>8}")
    for hidden in options.hidden:
        for steps in options.chunk_len:
            for row in measure(steps, hidden, options.batch, options.device, options.seconds):
                rows.append(row)
                print(
                    f"{hidden:>5} {steps:>3}  {row['trainer']:<11} {row['ms_per_chunk']:>9.3f} "
                    f"{row['ratio_to_plain']:>6.2f} {row['peak_bytes'] / 1e6:>8.2f}",
                    flush=True,
                )
            if options.json:
                with open(options.json, "w") as file:
                    json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
