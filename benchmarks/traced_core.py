"""What tracing costs: a traced LSTM or GRU against torch's own, forward and backward, one process.

Both get the same inputs, states and incoming gradients; the traced one also gives the gradient of
every state in the chunk. Times are interleaved repeats (a round times both once). Read the ratios,
below 1 where the traced core is the faster one: the median of the rounds', and that of the fastest
rounds, which a busy machine disturbs less.

    python benchmarks/traced_core.py --threads 1
    python benchmarks/traced_core.py --network gru --hidden 256 --batch 64
    python benchmarks/traced_core.py --threads 1 --compiled
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from seqdni import TorchCore, cut, leaves, map_state

FEATURES = 50
NETWORKS = {"lstm": nn.LSTM, "gru": nn.GRU}


def seconds(step: Callable[[], None], calls: int) -> float:
    """Wall time of one call, mean over ``calls``."""
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def measure(
    network: str, hidden: int, rows: int, steps: int, budget: float, compiled: bool
) -> list[float]:
    """Milliseconds of torch's own core, the median ratio and the ratio of the fastest rounds."""
    core = TorchCore(NETWORKS[network](FEATURES, hidden))
    tracing = TorchCore(core.rnn, compiled)
    x_TBD = torch.eye(FEATURES)[torch.randint(FEATURES, (steps, rows))]
    state = map_state(torch.randn_like, core.initial_state(rows))
    grads = [torch.randn(steps, rows, hidden), *leaves(map_state(torch.randn_like, state))]

    def chunk(run: Callable) -> None:
        core.zero_grad()
        y_TBH, end, *trace = run(x_TBD, cut(state))
        torch.autograd.backward([y_TBH, *leaves(end)], grads)
        for each in trace:
            each.grads()

    contenders = [lambda: chunk(core), lambda: chunk(tracing.traced)]
    for step in contenders:
        seconds(step, 3)
    once = sum(seconds(step, 2) for step in contenders)
    rounds = 21
    calls = max(1, int(budget / rounds / once))
    times = [[seconds(step, calls) for step in contenders] for _ in range(rounds)]
    plain, traced = zip(*times, strict=True)
    ratio = statistics.median(b / a for a, b in times)
    return [1e3 * statistics.median(plain), ratio, min(traced) / min(plain)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=list(NETWORKS), default="lstm")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256], help="H")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64], help="B")
    parser.add_argument("--chunk-len", type=int, nargs="+", default=[2, 4, 8, 20], help="T")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=1.5, help="budget a cell (default: 1.5)")
    parser.add_argument("--compiled", action="store_true", help="trace by compiled layers")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{'H':>5} {'B':>4} {'T':>3} {'ms plain':>9} {'traced/plain':>13} {'fastest':>8}")
    for hidden in options.hidden:
        for rows in options.batch:
            for steps in options.chunk_len:
                ms, ratio, fastest = measure(
                    options.network, hidden, rows, steps, options.seconds, options.compiled
                )
                cell = f"{hidden:>5} {rows:>4} {steps:>3} {ms:>9.3f} {ratio:>13.2f}"
                print(f"{cell} {fastest:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
