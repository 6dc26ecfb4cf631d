"""What least squares costs and finds on a wide state: all of it, blocks of it, or a projection.

States at the chunk ends of a random ``nn.LSTM`` on random symbols; targets are a planted linear map
of the standardised state plus noise as large as the signal; with ``--whitened`` of the whitened
one, so that small directions matter as much as large ones. The moments forget; at the end each
method solves for its map, and is asked for the clean targets of new states: 0 is right, 1 is no
better than saying zero. ``--drift`` turns the map by that many degrees a chunk; *late* is the error
of a solution that is ``--late`` chunks old. Milliseconds are of one chunk: moments, prediction and
the share of a solution every F / 32 chunks.

    python benchmarks/least_squares_size.py
    python benchmarks/least_squares_size.py --forgetting 0.99 --drift 0.5
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SYMBOLS = 50
RIDGE = 1e-4  # as LeastSquares has it; in float32 no less than the features times its rounding


def solve(normal: Tensor, cross: Tensor) -> Tensor:
    ridge = max(RIDGE, len(normal) * torch.finfo(normal.dtype).eps)
    factor = torch.linalg.cholesky(normal + torch.diag(ridge * normal.diagonal()))
    return torch.cholesky_inverse(factor) @ cross


def blocks(normal: Tensor, cross: Tensor, size: int) -> Tensor:
    """Each block of features on its own, as if it were not correlated with the others."""
    parts = [slice(i, i + size) for i in range(0, len(normal), size)]
    return torch.cat([solve(normal[part, part], cross[part]) for part in parts])


def projected(normal: Tensor, cross: Tensor, basis: Tensor) -> Tensor:
    """Least squares on features ``s @ basis``, mapped back."""
    return basis @ solve(basis.T @ normal @ basis, basis.T @ cross)


def whitening(states: Tensor) -> Tensor:
    """To coordinates in which every direction counts alike, the smallest left out."""
    variance, directions = torch.linalg.eigh(states.T @ states / len(states))
    kept = variance > 1e-6 * variance[-1]
    return directions[:, kept] / variance[kept].sqrt()


def milliseconds(step: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times[1:])


def cost(rows: int, features: int, targets: int, block: int | None, solution: float) -> float:
    """One chunk: the moments, of A only its blocks, a prediction, and a share of a solution."""
    phi, g = torch.randn(rows, features), torch.randn(rows, targets)
    normal, cross = torch.zeros(features, features), torch.zeros(features, targets)
    size = block or features

    def chunk() -> None:
        for i in range(0, features, size):
            part = phi[:, i : i + size]
            normal[i : i + size, i : i + size].addmm_(part.T, part, beta=0.97)
        cross.addmm_(phi.T, g, beta=0.97)
        torch.mm(phi, cross)

    return milliseconds(chunk) + solution / (features // 32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=1024, help="H; the state has S = 2H")
    parser.add_argument("--batch", type=int, default=64, help="B")
    parser.add_argument("--chunk-len", type=int, default=4, help="T")
    parser.add_argument("--chunks", type=int, default=256, help="learned from")
    parser.add_argument("--forgetting", type=float, default=0.97, help="a chunk")
    parser.add_argument("--drift", type=float, default=0.0, help="degrees a chunk")
    parser.add_argument("--whitened", action="store_true", help="plant small directions as well")
    parser.add_argument("--late", type=int, default=64, help="age of a late solution")
    options = parser.parse_args()
    torch.manual_seed(0)
    size = 2 * options.hidden
    lstm = nn.LSTM(SYMBOLS, options.hidden)
    state = (torch.zeros(1, options.batch, options.hidden),) * 2
    normal, cross = torch.zeros(size, size), torch.zeros(size, size)
    late: dict[str, Tensor] = {}

    def next_states() -> Tensor:
        nonlocal state
        tokens = torch.randint(SYMBOLS, (options.chunk_len, options.batch))
        state = lstm(functional.one_hot(tokens, SYMBOLS).float(), state)[1]
        return torch.cat([leaf[0] for leaf in state], dim=1)

    maps: list[Tensor] = []

    def clean(states: Tensor, chunk: int) -> Tensor:
        angle = math.radians(options.drift * chunk)
        now = math.cos(angle) * maps[0] + math.sin(angle) * maps[1]
        return states @ now

    basis = torch.linalg.qr(torch.randn(size, size // 4))[0]
    methods: dict[str, Callable[[], Tensor]] = {
        "all, float64": lambda: solve(normal.double(), cross.double()).float(),
        "all": lambda: solve(normal, cross),
        "blocks of S/8": lambda: blocks(normal, cross, size // 8),
        "projected, S/4": lambda: projected(normal, cross, basis),
    }
    with torch.no_grad():
        warm = torch.cat([next_states() for _ in range(8 + 4 * size // options.batch)][8:])
        mean, deviation = warm.mean(0), warm.std(0)
        if options.whitened:
            to_white = whitening((warm - mean) / deviation)
            maps = [to_white @ torch.randn(to_white.shape[1], size) for _ in range(2)]
        else:
            maps = [torch.randn(size, size) for _ in range(2)]
        for chunk in range(options.chunks):
            phi = (next_states() - mean) / deviation
            g = clean(phi, chunk)
            g = g + g.std() * torch.randn_like(g)
            normal.addmm_(phi.T, phi, beta=options.forgetting)
            cross.addmm_(phi.T, g, beta=options.forgetting)
            if chunk == options.chunks - 1 - options.late:
                late = {name: method() for name, method in methods.items()}
        new = torch.cat([(next_states() - mean) / deviation for _ in range(16)])
        truth = clean(new, options.chunks - 1)
        rank = normal.diagonal().sum() ** 2 / normal.square().sum()
        print(f"effective rank of the states {rank:.0f} of {size}")
        print(f"{'':<15} {'ms/chunk':>8} {'solution ms':>11} {'error':>6} {'late':>6}")
        for name, method in methods.items():
            errors = [
                float((new @ w - truth).square().sum() / truth.square().sum())
                for w in (method(), late[name])
            ]
            solution = milliseconds(method)
            features = size // 4 if "projected" in name else size
            block = size // 8 if "blocks" in name else None
            spent = cost(options.batch, features, size, block, solution)
            print(f"{name:<15} {spent:>8.1f} {solution:>11.1f} {errors[0]:>6.3f} {errors[1]:>6.3f}")


if __name__ == "__main__":
    main()
