"""Draw the five steps of one chunk update: ``python docs/figures/chunk_update.py``."""

from itertools import pairwise
from pathlib import Path

WIDTH, ROW = 720, 150
STEPS = [360, 430, 500, 570]  # where the T steps of the chunk stand
INK, BACK, TEACH, PALE = "#222", "#b34700", "#0063a0", "#eef1f5"
ROWS = (
    ("1 Plan", ("which rows reset,", "which steps count")),
    ("2 Forward", ("T steps from s₀,", "which is cut")),
    ("3 Backward", ("one pass from the", "losses and from ĝ")),
    ("4 Teach", ("M(s₀) learns what", "arrived at s₀")),
    ("5 Update", ("model and M step;", "s goes on, cut")),
)


def text(x: float, y: float, words: str, colour: str = INK, size: int = 23, more: str = "") -> str:
    """Words around a point."""
    return (
        f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}" text-anchor="middle" {more}>'
        f"{words}</text>"
    )


def box(x: float, y: float, words: str, colour: str = INK, width: int = 46) -> str:
    """A labelled box around a point."""
    return (
        f'<rect x="{x - width / 2}" y="{y - 22}" width="{width}" height="44" rx="6" '
        f'fill="{PALE}" stroke="{colour}" stroke-width="2"/>' + text(x, y + 8, words, colour)
    )


def arrow(x: float, y: float, to_x: float, to_y: float, colour: str = INK) -> str:
    """An arrow from one point to another."""
    return (
        f'<path d="M{x} {y}L{to_x} {to_y}" stroke="{colour}" stroke-width="2.5" '
        f'marker-end="url(#{colour[1:]})"/>'
    )


def chain(y: float) -> str:
    """The states of a chunk and its steps."""
    return "".join(
        [text(296, y + 8, "s₀"), text(636, y + 8, "s"), *(box(x, y, "f") for x in STEPS)]
    )


def plan(y: float) -> str:
    """The masks of three rows."""
    cells = []
    for row, scored in enumerate(("0111", "1111", "1100")):
        for x, counts in zip(STEPS, scored, strict=True):
            fill = "#9db4cc" if counts == "1" else "#fff"
            cells.append(
                f'<rect x="{x - 26}" y="{y - 46 + 32 * row}" width="52" height="26" rx="4" '
                f'fill="{fill}" stroke="#555"/>'
            )
    return "".join(cells)


def forward(y: float) -> str:
    """States to the right, losses upwards."""
    joints = [312, *STEPS, 624]
    ahead = [
        arrow(a + 24 * (a != 312), y, b - 27 + 26 * (b == 624), y) for a, b in pairwise(joints)
    ]
    losses = [arrow(x, y - 24, x, y - 40) + text(x, y - 46, "L") for x in STEPS]
    return chain(y) + "".join([*ahead, *losses])


def backward(y: float) -> str:
    """Gradients to the left, from the losses and from what the synthesizer predicts."""
    joints = [312, *STEPS, 624]
    back = [
        arrow(b - 24 + 23 * (b == 624), y, a + 27 - 26 * (a == 312), y, BACK)
        for a, b in pairwise(joints)
    ]
    losses = [text(x, y - 46, "L", BACK) + arrow(x, y - 42, x, y - 25, BACK) for x in STEPS]
    prediction = text(636, y - 46, "ĝ = M(s)", BACK) + arrow(636, y - 40, 636, y - 14, BACK)
    return chain(y) + "".join([*back, *losses, prediction])


def teach(y: float) -> str:
    """The regression."""
    return "".join(
        [
            box(420, y, "M(s₀)", TEACH, 90),
            arrow(470, y, 536, y, TEACH),
            text(620, y - 4, "gradient that", BACK),
            text(620, y + 22, "arrived at s₀", BACK),
        ]
    )


def update(y: float) -> str:
    """Two optimizers, and the state that goes on."""
    return "".join(
        [
            box(352, y, "model", INK, 96),
            box(462, y, "M", TEACH, 60),
            text(540, y + 8, "s"),
            f'<path d="M560 {y - 26}V{y + 26}" stroke="{INK}" stroke-dasharray="5 4"/>',
            arrow(566, y, 610, y),
            text(660, y - 2, "next", INK),
            text(660, y + 24, "chunk", INK),
        ]
    )


def drawing() -> str:
    """The whole strip, as SVG."""
    height = ROW * len(ROWS) + 8
    heads = "".join(
        f'<marker id="{c[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" '
        f'markerWidth="12" markerHeight="12" orient="auto"><path d="M0 0 8 4 0 8z" fill="{c}"/>'
        "</marker>"
        for c in (INK, BACK, TEACH)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif">',
        "<title>The five steps of one chunk update</title>",
        "<desc>Plan: which rows reset and which steps count. Forward: T steps from a start state "
        "that is cut from the graph. Backward: one pass from the losses and from the predicted "
        "gradient at the end state. Teach: the synthesizer's prediction at the start state is "
        "trained on the gradient that arrived there. Update: model and synthesizer.</desc>",
        f'<defs>{heads}</defs><rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
    ]
    draws = (plan, forward, backward, teach, update)
    for k, ((name, words), draw) in enumerate(zip(ROWS, draws, strict=True)):
        top, middle = ROW * k, ROW * k + ROW / 2 + 14
        if k:
            parts.append(f'<path d="M16 {top + 4}H{WIDTH - 16}" stroke="#ccc"/>')
        left = 'style="text-anchor: start"'
        parts.append(text(20, middle - 26, name, INK, 27, left + ' font-weight="bold"'))
        parts += [text(20, middle + 8 + 28 * n, w, INK, 24, left) for n, w in enumerate(words)]
        parts.append(draw(middle))
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    (Path(__file__).parent / "chunk-update.svg").write_text(drawing())
