"""Figures of sacrebleu and rouge-score on a few hundred pairs, to which the metrics of text are compared.

    python tests/text_metrics_golden.py        # writes tests/golden/text_metrics.json; needs sacrebleu and rouge-score

The texts are sentences of Python's own documentation (`pydoc_data.topics`) and disturbed copies of them.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

TABLE = Path(__file__).parent / "golden" / "text_metrics.json"
ODD = [  # candidate, references
    ("", ["A reference."]),
    ("A candidate.", [""]),
    ("", [""]),
    ("   ", ["\n"]),
    ("word", ["word"]),
    ("word", ["other"]),
    ("word", ["word", "other words here"]),
    ("two words", ["two words here", "two"]),
    ("a a a a a a a", ["a a b"]),
    ("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
    ("...", ["..."]),
    ("?!", ["?! ?!"]),
    ("naïve café, señor — 東京 ☃", ["naive café; señor – 東京 ☃☃"]),
    ("Straße İstanbul ΑΣ", ["strasse istanbul ας"]),
    ("1,000.5-7 &quot;x&quot; &amp;lt; <skipped>&lt;b&gt;", ['1,000.5 - 7 "x" < b >']),
    ("hyphen-\nated line\nbreak", ["hyphenated line break"]),
    ("tab\tand\u00a0space\u3000wide ", ["tab and space wide"]),
    ("x" * 40, ["x" * 39 + "y"]),
    ("(hi) 'quoted' [list]: a.b,c 3.14, .5 5.", ['(hi), "quoted" [list]; a.b, c 3.14 .5 5.']),
    ("😀😀 ok", ["😀 ok", "ok 😀😀"]),
]


def sentences(least: int = 25, most: int = 110) -> list[str]:
    """Sentences of Python's documentation, sorted."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    found = {" ".join(x.split()) for x in re.split(r"(?<=[.:!?])\s+", text)}
    return sorted(x for x in found if least <= len(x) <= most and re.search(r"[a-z] [a-z]", x))


def disturbed(source: random.Random, text: str, other: str) -> str:
    """The text with words dropped, swapped, repeated, replaced, cut off, or in other case."""
    words = text.split()
    for _ in range(source.randint(0, 4)):
        if not words:
            break
        i, j = source.randrange(len(words)), source.randrange(len(words))
        change = source.randrange(7)
        if change == 0:
            del words[i]
        elif change == 1:
            words[i], words[j] = words[j], words[i]
        elif change == 2:
            words[i:i] = words[i : i + source.randint(1, 3)]
        elif change == 3:
            words = words[: i + 1]
        elif change == 4:
            words[i] = source.choice(other.split())
        elif change == 5:
            words[i] = words[i].swapcase()
        else:
            words[i:i] = other.split()[: source.randint(1, 4)]
    return " ".join(words)


def pairs(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Candidates with one to three references."""
    source, texts = random.Random(seed), sentences()
    made = []
    for _ in range(count):
        text, other = source.sample(texts, 2)
        candidate = other if source.random() < 0.05 else disturbed(source, text, other)
        references = [text, *(disturbed(source, text, other) for _ in range(source.choice([0, 0, 0, 1, 2])))]
        made.append((candidate, references))
    return made


def sentence_figures(candidate: str, references: list[str]) -> dict[str, list[float]]:
    """What the libraries give for one candidate, by the name of what it shows."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    def bleu(**options):
        return BLEU(**{"effective_order": True, **options}).sentence_score(candidate, references).score

    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(references[0], candidate)
    return {
        "bleu": [bleu(max_ngram_order=n) for n in (1, 2, 3, 4)],
        "smoothing": [bleu(smooth_method=name) for name in ("none", "floor", "add-k")],
        "fixed_order": [
            bleu(effective_order=False),
            bleu(effective_order=False, smooth_method="floor", smooth_value=0.5),
        ],
        "rouge": [x for name in ("rouge1", "rouge2", "rougeL") for x in rouge[name]],
        "chrf": [CHRF(word_order=n).sentence_score(candidate, references).score for n in (0, 2)],
    }


def corpus_figures(rows: list[tuple[str, list[str]]]) -> list[float]:
    """BLEU of order 1 to 4, with each other smoothing, chrF, chrF++ and chrF with β = 1, of a corpus."""
    from sacrebleu.metrics import BLEU, CHRF

    candidates = [candidate for candidate, _ in rows]
    most = max(len(references) for _, references in rows)
    columns = [[x[k] if k < len(x) else None for _, x in rows] for k in range(most)]
    scores = [BLEU(max_ngram_order=n) for n in (1, 2, 3, 4)]
    scores += [BLEU(smooth_method=name) for name in ("none", "floor", "add-k")]
    scores += [CHRF(), CHRF(word_order=2), CHRF(beta=1)]
    return [x.corpus_score(candidates, columns).score for x in scores]


def corpora(count: int) -> list[tuple[int, int]]:
    """Ranges of rows that are scored as a corpus."""
    return [(0, 1), (4, 6), (9, 17), (17, 25), (count - 8, count)]


def rounded(x):
    """The same structure with 10 significant digits."""
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    return [rounded(value) for value in x] if isinstance(x, list) else float(f"{x:.10g}")


def main() -> None:
    import sacrebleu

    rows = ODD + pairs(310, seed=0)
    table = {
        "about": f"sacrebleu {sacrebleu.__version__}, rouge-score 0.1.2; written by tests/text_metrics_golden.py",
        "rows": [[*row, *rounded(list(sentence_figures(*row).values()))] for row in rows],
        "whole": rounded(corpus_figures(rows)),
        "corpora": [[*span, rounded(corpus_figures(rows[slice(*span)]))] for span in corpora(len(rows))],
    }
    compact = lambda x: json.dumps(x, ensure_ascii=False, separators=(",", ":"))
    parts = [f'"{name}":{compact(table[name])}' for name in ("about", "whole")]
    parts += [f'"{name}":[\n' + ",\n".join(map(compact, table[name])) + "\n]" for name in ("rows", "corpora")]
    TABLE.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
