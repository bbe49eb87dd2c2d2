"""Draws the pictures of the documentation's concepts: `python docs/diagrams.py` writes docs/pictures/*.svg.

Colours are readable on white and on black: arrays are blue, functions green, states purple, ends of episodes red.
A picture is 480 wide, so that its words can be read on a phone.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"
ARRAY, FUNCTION, STATE, END = "#2f6db5", "#2c7d59", "#7a4fb0", "#b5453a"
LINE = "#727a85"
WIDTH = 480


def words(x, y, text, size=14, color=LINE, anchor="middle", weight="normal"):
    """A line of text whose middle is at height y."""
    place = f'x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="{color}">{escape(text)}</text>'


def box(x, y, width, height, color, *lines):
    """A box with its lines of text, the first of which is bold."""
    rect = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{color}"/>'
    middle, step = y + height / 2, 18
    heights = [middle + step * (i - (len(lines) - 1) / 2) for i in range(len(lines))]
    texts = [
        words(x + width / 2, at, line, 14 if i == 0 else 13, "#fff", weight="bold" if i == 0 else "normal")
        for i, (at, line) in enumerate(zip(heights, lines, strict=True))
    ]
    return "".join([rect, *texts])


def arrow(*points, dashed=False):
    """An arrow along points (x, y)."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.8"{dash} marker-end="url(#head)"/>'


def picture(height, title, *parts):
    """A whole picture."""
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker>'
    )
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    top = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="system-ui, sans-serif">'
    return "\n".join([top, f"<title>{escape(title)}</title><defs>{head}</defs>", *parts, "</svg>", ""])


def agent():
    """The five functions of an agent that matter in training, and the environment."""
    return picture(
        340,
        "act selects actions; update makes a new state from a block of transitions",
        box(175, 16, 130, 46, STATE, "state", "parameters, …"),
        words(320, 39, "← init(key, obs)", anchor="start"),
        box(24, 112, 120, 46, ARRAY, "obs", "[N, …]"),
        box(180, 112, 120, 46, FUNCTION, "act", "with a key"),
        box(336, 112, 130, 46, ARRAY, "action, extras", "[N, …]"),
        box(336, 202, 130, 46, FUNCTION, "environments", "N copies"),
        box(180, 280, 120, 46, ARRAY, "rollout", "[T, N, …]"),
        box(24, 280, 120, 46, FUNCTION, "update", "with a key"),
        arrow((240, 62), (240, 110)),
        arrow((144, 135), (178, 135)),
        arrow((300, 135), (334, 135)),
        arrow((401, 158), (401, 200)),
        arrow((336, 225), (84, 225), (84, 160)),
        arrow((401, 248), (401, 303), (302, 303)),
        arrow((180, 303), (146, 303)),
        arrow((24, 303), (10, 303), (10, 39), (173, 39)),
        words(210, 214, "next observation", 13),
    )


def reward():
    """A training reward made of weighted terms, beside the reported return."""
    terms = [(10, "task", "1.0 · r"), (126, "effort", "0.1 · |a|"), (242, "shaping", "γΦ(s') − Φ(s)")]
    return picture(
        350,
        "weighted terms of a block of transitions are the training reward; the return that is reported is not changed",
        box(60, 14, 240, 46, ARRAY, "transitions", "[T, N, …]"),
        *[box(x, 110, 106, 46, FUNCTION, *lines) for x, *lines in terms],
        *[arrow((180 + (x - 126) / 2, 60), (x + 53, 108)) for x, *_ in terms],
        *[arrow((x + 53, 156), (180 + (x - 126) / 2, 204)) for x, *_ in terms],
        words(24, 182, "sum", 13, anchor="start"),
        box(60, 206, 240, 46, ARRAY, "training reward", "[T, N]"),
        arrow((180, 252), (180, 290)),
        box(60, 292, 240, 46, FUNCTION, "agent.update"),
        arrow((300, 37), (420, 37), (420, 204)),
        box(368, 206, 104, 62, ARRAY, "reported", "return of the", "environment"),
    )


def distribution():
    """The functions of a distribution, all of the network's output p."""
    uses = [("sample", "acting"), ("log_prob", "losses"), ("entropy", "bonus"), ("mode", "greedy"), ("kl", "penalty")]
    places = [8 + 94 * i for i in range(len(uses))]
    return picture(
        190,
        "a network gives the parameters p of a distribution, whose functions sample actions and give probabilities",
        box(20, 16, 120, 46, ARRAY, "obs", "[N, …]"),
        box(180, 16, 120, 46, FUNCTION, "network"),
        box(340, 16, 120, 46, ARRAY, "p", "[N, num_params]"),
        arrow((140, 39), (178, 39)),
        arrow((300, 39), (338, 39)),
        *[arrow((400, 62), (400, 84), (x + 44, 84), (x + 44, 118)) for x in places],
        *[box(x, 120, 88, 52, FUNCTION, *use) for x, use in zip(places, uses, strict=True)],
    )


def learner():
    """One step of a learner: a block of T steps in N environments, and an update."""
    side, left, top, steps, rows = 30, 130, 40, 9, 4
    ends = {(2, 0): "T", (5, 1): "L", (7, 2): "T", (3, 3): "L"}
    cells = []
    for row in range(rows):
        for t in range(steps):
            kind = ends.get((t, row))
            color = END if kind else ARRAY
            place = f'x="{left + t * side}" y="{top + row * side}" width="{side - 3}" height="{side - 3}"'
            cells.append(f'<rect {place} rx="3" fill="{color}"/>')
            if kind:
                middle = (left + t * side + side / 2 - 1.5, top + row * side + side / 2 - 1.5)
                cells.append(words(*middle, kind, 13, "#fff", weight="bold"))
    bottom = top + rows * side
    right = left + steps * side
    return picture(
        370,
        "a step of a learner is a rollout of T steps in N environments and one update of the agent",
        words(left + steps * side / 2, 20, "T steps of the environment →"),
        words(left - 10, top + 46, "N", anchor="end"),
        words(left - 10, top + 66, "environments", 13, anchor="end"),
        *cells,
        words(left, bottom + 14, "T terminated: V = 0 follows", 13, anchor="start"),
        words(left, bottom + 34, "L time limit: V(next_obs) follows", 13, anchor="start"),
        box(left, 218, right - left - 3, 40, FUNCTION, "reward.apply, then agent.update"),
        arrow((right - 20, bottom), (right - 20, 216)),
        box(10, 300, 130, 54, STATE, "state", "iteration k"),
        box(180, 300, 120, 54, FUNCTION, "step"),
        box(340, 300, 130, 54, STATE, "state", "iteration k + 1"),
        arrow((140, 327), (178, 327)),
        arrow((300, 327), (338, 327)),
        arrow((240, 258), (240, 298), dashed=True),
        words(250, 278, "together: one step", 13, anchor="start"),
    )


def hyperparameters():
    """Floats are data and share one program; anything else is structure."""
    return picture(
        300,
        "floats are data of one program; anything else is structure and has a program for each value",
        box(10, 20, 200, 106, STATE, "float", "learning_rate", "gamma", "clip", "entropy_cost"),
        box(10, 156, 200, 106, STATE, "anything else", "num_epochs: int", "normalize_obs: bool", "widths of networks"),
        arrow((210, 73), (266, 73)),
        arrow((210, 209), (266, 209)),
        words(238, 60, "data", 13),
        words(238, 196, "structure", 12),
        box(268, 20, 202, 106, FUNCTION, "one program", "vmap: a sweep", "grad: a meta-gradient", "no compiling"),
        box(268, 156, 202, 106, FUNCTION, "a program for each", "shapes, loop lengths,", "which code runs"),
        words(240, 284, "@purerl.config reads this from the annotations", 13),
    )


def bits():
    """The keys of a run: an iteration's depend on its number, not on where chunks end."""
    places = [10 + 118 * i for i in range(4)]
    return picture(
        330,
        "each iteration's key is made of the run's key and the iteration's number, wherever chunks begin",
        box(150, 14, 180, 46, ARRAY, "key of the run", "from --seed"),
        *[arrow((240, 60), (240, 80), (x + 53, 80), (x + 53, 104)) for x in places],
        *[box(x, 106, 106, 46, FUNCTION, "fold_in", f"iteration {i}") for i, x in enumerate(places)],
        *[arrow((64, 152), (64, 180), (x, 180), (x, 204)) for x in (64, 182, 300)],
        *[
            box(x - 53, 206, 106, 46, ARRAY, *lines)
            for x, *lines in ((64, "block_key", "acting"), (182, "reward_key", "reward"), (300, "update_key", "update"))
        ],
        f'<path d="M240,96 V286" stroke="{LINE}" stroke-width="1.8" stroke-dasharray="2 5"/>',
        f'<path d="M10,286 v8 h224 v-8 M246,286 v8 h224 v-8" fill="none" stroke="{LINE}" stroke-width="1.8"/>',
        words(122, 310, "chunk, checkpoint", 13),
        words(358, 310, "resumed: the same keys", 13),
    )


def resets():
    """Termination and a time limit: what follows the last reward."""

    def row(y, kind, last, follows, note):
        return [
            box(10, y, 80, 44, ARRAY, "obs", "t"),
            arrow((90, y + 22), (148, y + 22)),
            words(119, y + 10, "reward", 12),
            box(150, y, 120, 44, last, "next_obs", kind),
            arrow((270, y + 22), (328, y + 22)),
            box(330, y, 140, 44, FUNCTION, "target", follows),
            words(240, y + 62, note, 13),
        ]

    return picture(
        300,
        "after termination no value follows; after a time limit the value of the true successor does",
        *row(14, "terminated", END, "r", "the task has ended: no value follows"),
        *row(110, "truncated", END, "r + γV(next_obs)", "only the clock ended it: the value of the true successor"),
        box(135, 222, 150, 44, ARRAY, "obs", "t + 1, after a reset"),
        arrow((210, 184), (210, 220), dashed=True),
        words(295, 244, "of another episode", 13, anchor="start"),
    )


DIAGRAMS = (agent, reward, distribution, learner, hyperparameters, bits, resets)

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for draw in DIAGRAMS:
        (FOLDER / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")
