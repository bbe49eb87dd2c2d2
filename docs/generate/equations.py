"""Equations of docstrings, which are Unicode, as TeX."""

from __future__ import annotations

import re
import unicodedata

ABOVE = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿᵗᵏᵀʲᵐⁱˢˣᵖ", "0123456789+-()ntkTjmisxp", strict=True))
BELOW = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₚᵣₛₜₓ", "0123456789+-()aehijklmnprstx", strict=True))
ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}
SIGNS = {"½": "tfrac12", "Σ": "sum", "Π": "prod", "~": "sim", "‖": "Vert", "·": "cdot", "∇": "nabla", "∂": "partial"}
PROSE = (
    "if",
    "for",
    "otherwise",
    "where",
    "of",
    "and",
    "or",
    "with",
    "over",
    "else",
    "the",
    "to",
    "in",
    "at",
    "by",
    "is",
)
SPACE = "\\ "
CODE = re.compile(r"[`\"]|->|>>>|──")  # in code, and in drawings


def is_equation(text: str) -> bool:
    """Whether a block of a docstring is mathematics: neither code nor a drawing."""
    return not CODE.search(text) and (" = " in text or not text.isascii())


def word(match: re.Match) -> str:
    """A word alone is an operator or a name; several are text."""
    if " " in match[0] or match[0] in PROSE:
        return rf"{SPACE}\text{{{match[0]}}}{SPACE}"
    return rf"\operatorname{{{match[0]}}} ".replace("_", r"\_")


def tex(text: str) -> str:
    r"""An equation as TeX, with a row for each line and for each of several equations in a line.

    >>> print(tex("Aᵢ = rᵢ - mean(r),   ½ Q_old(s)²"))
    \begin{array}{l}
    {} A_{i} = r_{i} - \operatorname{mean} (r), \\
    {} \tfrac12  Q_{\mathrm{old}}(s)^{2}
    \end{array}
    """
    scripts = [(f"[{''.join(map(re.escape, table))}]+", table, mark) for table, mark in ((ABOVE, "^"), (BELOW, "_"))]
    rows = []
    for line in re.split(r"(?<=,) {3}|\n", text):
        indent = r"\quad " * ((len(line) - len(line.lstrip())) // 4)  # a continued line
        line = re.sub(r"(?<![\^_])\{([^{}]*)\}", r"\\{\1\\}", line.strip())
        line = re.sub(r"(?<=\w)\*(?!\w)", "^{*}", line).replace(">=", "≥").replace("<=", "≤")
        line = re.sub(r"([%#&])", r"\\\1", re.sub(" {2,}", r" \\quad ", line))
        line = re.sub(r"\^(-?[^\W_]+)", r"^{\1}", line)
        line = re.sub(r"_([^\W_][\u0302-\u0307]?'?[ᵢⱼₖ]?)(?![A-Za-z])", r"_{\1}", line)
        line = re.sub(r"(?<![A-Za-z]{2})_([A-Za-z]{2,})", r"_{\\mathrm{\1}}", line)
        run = r"[A-Za-z]{2,}(?:_[A-Za-z]+|[ -](?=[A-Za-z]{2,})[A-Za-z]+)*"
        line = re.sub(rf"(?<![A-Za-z\\])(?<!mathrm\{{){run}", word, line)
        line = "".join(rf"\{SIGNS[x]} " if x in SIGNS else x for x in line)
        for pattern, table, mark in scripts:
            line = re.sub(pattern, lambda x, t=table, m=mark: f"{m}{{{''.join(t[y] for y in x[0])}}}", line)
        line = "".join(unicodedata.normalize("NFD", x) if x.isalpha() else x for x in line)
        line = re.sub(f"(.)([{''.join(ACCENTS)}])", lambda x: rf"\{ACCENTS[x[2]]}{{{x[1]}}}", line)
        rows.append(f"{{}} {indent}{line.removeprefix(SPACE)}")
    return "\\begin{array}{l}\n" + " \\\\\n".join(rows) + "\n\\end{array}"
