"""How much of the true gradient of an activation can be predicted, with and without the label.

A net of two hidden layers learns MNIST by back-propagation. At some moments of the training, a
linear map is fitted by least squares from each activation to its true gradient, on 20,000 training
images, once from the activation alone and once with the label. On 10,000 other images (with the net
in evaluation mode) the script prints the share of the gradient's energy that the map explains,
1 - |error|^2 / |gradient|^2. In the mean over what a calibrated net believes, the gradient of the
log-loss is zero: what the activation alone explains should fall to nothing as the net learns.

    python benchmarks/label_needed.py --mnist-dir DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqdni.corpora import read_mnist

CLASSES, WIDTH, BATCH = 10, 256, 256
MOMENTS = (0, 50, 200, 500, 1000)  # updates
FITTED, ASKED = 20_000, 10_000  # images that a map is fitted to, and that it is tested on
RIDGE = 1e-3  # of each feature's sum of squares


def make_net(seed: int) -> nn.Sequential:
    """Two hidden layers and a linear one."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
            for width in (784, WIDTH)
        ),
        nn.Linear(WIDTH, CLASSES),
    )


def true_gradients(net: nn.Sequential, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The activations at the cuts and the gradients of each row's loss there."""
    net.eval()
    ends, end = [], x
    for stage in list(net)[:-1]:
        end = stage(end)
        ends.append(end)
    loss = functional.cross_entropy(net[-1](end), y, reduction="sum")
    grads = torch.autograd.grad(loss, ends)
    net.train()
    return [(end.detach(), grad) for end, grad in zip(ends, grads, strict=True)]


def features(h: Tensor, label: Tensor | None) -> Tensor:
    """What the map reads, in float64."""
    parts = [h, torch.ones(len(h), 1)]
    if label is not None:
        parts.append(functional.one_hot(label, CLASSES).float())
    return torch.cat(parts, dim=1).double()


def explained(fitted: Sequence[Tensor], asked: Sequence[Tensor], with_label: bool) -> float:
    """The share of the gradient's energy that a linear map explains on other rows.

    Args:
        fitted: activations, gradients and labels that the map is fitted to.
        asked: those that it is tested on.
        with_label: whether the map reads the label.
    """
    (h, grad, label), (other_h, other_grad, other_label) = fitted, asked
    x = features(h, label if with_label else None)
    moments = x.T @ x
    moments += torch.diag(RIDGE * moments.diagonal() + 1e-9)
    solution = torch.linalg.solve(moments, x.T @ grad.double())
    missed = features(other_h, other_label if with_label else None) @ solution - other_grad
    return 1 - (missed.square().sum() / other_grad.double().square().sum()).item()


def main() -> None:
    """Train, and print a row at each moment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist-dir", required=True, metavar="DIR", help="folder of MNIST")
    parser.add_argument("--seed", type=int, default=21)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, _, test, _ = read_mnist(given.mnist_dir)
    pixels, labels = train.pixels_nP.float() / 255, train.labels_n
    asked_x, asked_y = test.pixels_nP[:ASKED].float() / 255, test.labels_n[:ASKED]
    net = make_net(given.seed)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    print("updates  test error  | cut 0: alone  with label | cut 1: alone  with label")
    for update in range(max(MOMENTS) + 1):
        if update in MOMENTS:
            fitted = true_gradients(net, pixels[:FITTED], labels[:FITTED])
            asked = true_gradients(net, asked_x, asked_y)
            net.eval()
            error = (net(asked_x).argmax(1) != asked_y).double().mean().item()
            net.train()
            shares = [
                explained((*cut, labels[:FITTED]), (*other, asked_y), with_label)
                for cut, other in zip(fitted, asked, strict=True)
                for with_label in (False, True)
            ]
            shown = "  ".join(f"{share:10.2f}" for share in shares)
            print(f"{update:7}  {error:10.4f}  {shown}", flush=True)
        chosen = torch.randint(len(pixels), (BATCH,))
        functional.cross_entropy(net(pixels[chosen]), labels[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
