"""Docstrings as the site of documentation shows them: sections, examples, and equations as TeX."""

import ast
import inspect
import itertools
import re

import pages
import pytest

FOLDER = pages.ROOT / "docs"


@pytest.fixture(autouse=True)
def site_code(monkeypatch):
    """The code of the site, which is no part of the package."""
    monkeypatch.syspath_prepend(str(FOLDER))


def shown(docstring):
    import generate.docstrings

    return generate.docstrings.markdown(docstring)


def test_sections_become_lists():
    text = shown(
        """One line.

        Args:
          reward, value: float `[T]`.  gamma: in
            [0, 1].
          key: consumed.
        Returns:
          A sum,
          `[T]`.
        Raises:
          ValueError: if shapes differ.
        Reference: Somebody, 2016, arXiv:1506.02438, eq. 16.
        """
    )
    assert "- `reward`, `value`: float `[T]`.\n- `gamma`: in [0, 1].\n- `key`: consumed." in text
    assert "**Returns** A sum, `[T]`." in text and "- `ValueError`: if shapes differ." in text
    assert "**Reference** Somebody, 2016, [arXiv:1506.02438](https://arxiv.org/abs/1506.02438), eq. 16." in text


def test_examples_code_and_tables_stay_as_they_are():
    text = shown("One.\n\n    @declare(X())\n    def mine(): ...\n\n| a | b |\n|---|---|\n\n>>> 1 + 1\n2\n")
    assert "````python\n@declare(X())\ndef mine(): ...\n````" in text
    assert "| a | b |\n|---|---|" in text and "````pycon\n>>> 1 + 1\n2\n````" in text


def test_lines_that_begin_with_names_become_lists():
    assert (
        shown("One.\n\n`init(key)` begins,\n  and waits.\n`act` acts.")
        == "One.\n\n- `init(key)` begins, and waits.\n- `act` acts."
    )
    assert shown("capacity: MWh.  power: MW.\nwear: money.") == "- `capacity`: MWh.\n- `power`: MW.\n- `wear`: money."
    assert shown("Prose of\ntwo lines: no list.") == "Prose of\ntwo lines: no list."


@pytest.mark.parametrize(
    ("equation", "tex"),
    [
        ("r + γ max Q_target(s',a')", r"r + γ \operatorname{max}  Q_{\mathrm{target}}(s',a')"),
        ("Âₜ = Σₖ xᵢ₊₁²", r"\hat{A}_{t} = \sum _{k} x_{i+1}^{2}"),
        ("ρ_τ̂ᵢ(θ), π*(s) ≠ e^{-x}", r"ρ_{\hat{τ}_{i}}(θ), π^{*}(s) ≠ e^{-x}"),
        ("w ∝ (N P)^-β, 5 % of {1, 2}", r"w ∝ (N P)^{-β}, 5 \% \ \text{of}\  \{1, 2\}"),
        ("x < 1   if the sum is small", r"x < 1 \quad \ \text{if the sum is small}\ "),
        ("ζ = max_norm(g)", r"ζ = \operatorname{max\_norm} (g)"),
    ],
)
def test_equations_become_tex(equation, tex):
    import generate.equations

    assert generate.equations.tex(equation) == f"\\begin{{array}}{{l}}\n{{}} {tex}\n\\end{{array}}"


def test_several_equations_have_a_row_each():
    import generate.equations

    rows = generate.equations.tex("a = ½,   b = 1\n    + c").split("\n")
    assert rows[1:-1] == [r"{} a = \tfrac12 , \\", r"{} b = 1 \\", r"{} \quad + c"]


def test_all_equations_of_the_package_convert():
    """Braces match, and nothing is left that MathJax would show as a letter of another font."""

    small = re.compile("[⁰¹²³⁴-⁾ⁿ₀-₎ₐ-ₜᵢ-ᵪʰ-ˣᴬ-ᵡ\u0300-\u036f]")
    count = 0
    for path in (pages.ROOT / "purerl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = shown(ast.get_docstring(node))
                for tex in re.findall(r"````\{math\}\n(.*?)````", text, re.DOTALL):
                    bare = re.sub(r"\\[{}]", "", tex)
                    depths = list(itertools.accumulate((x == "{") - (x == "}") for x in bare))
                    assert min(depths) == 0 and depths[-1] == 0 and not small.search(tex), inspect.cleandoc(tex)
                    count += 1
    assert count > 150
