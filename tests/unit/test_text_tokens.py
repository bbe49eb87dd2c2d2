"""Tokens: round trips, the files that the tokenizers library reads with the same ids, and files that are none."""

import builtins
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl.text import tokens
from purerl.text.tokens import byte_tokenizer, character_tokenizer, load, pad, train_bpe

ALPHABET = "aé☃\U0001f600\u0301\n\r\t \u2028\x00<>|"
TEXTS = ["", "hello", "naïve  ☃ \U0001f600", " a\n\n\tb\r\n", "<|endoftext|> is text </s>", "e\u0301\u2028\x00"]
CORPUS = ["the cat sat on the mat, the rat sat on the cat", "naïve ☃ 1234 = 1234\n  def f(x): return x"] * 5


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def bpe(library):
    return train_bpe(CORPUS, 300)


def read_by_library(library, folder):
    tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


# --- round trips ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text())
def test_bytes_of_any_text_and_back(text):
    ids = byte_tokenizer().encode(text)
    assert bytes(ids) == text.encode() and byte_tokenizer().decode(ids) == text


@settings(deadline=None)
@given(st.text(min_size=1))
def test_characters_of_any_text_and_back(text):
    characters = character_tokenizer([text[:3], text[3:]])
    ids = characters.encode(text)
    assert [sorted(set(text))[i] for i in ids] == list(text) and characters.decode(ids) == text
    assert (characters.size, characters.end) == (len(set(text)) + 1, len(set(text)))


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_byte_pairs_of_any_text_and_back(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text and all(0 <= i < bpe.size for i in ids) and bpe.end not in ids


@settings(deadline=None)
@given(st.binary(max_size=20), st.binary(max_size=5))
def test_invalid_utf_8_becomes_the_replacement_character(data, after):
    ids = [*data, 256, *after]
    assert byte_tokenizer().decode(ids) == data.decode(errors="replace")
    assert byte_tokenizer().decode(np.array(ids, np.int32)) == data.decode(errors="replace")


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=12))
def test_invalid_utf_8_is_decoded_as_by_the_library(library, saved, data):
    assert saved["bytes"][1].decode(list(data), skip_special_tokens=False) == byte_tokenizer().decode(list(data))


def test_decoding_stops_at_the_end(bpe):
    for tokenizer in (byte_tokenizer(), character_tokenizer(["abc"]), bpe):
        ids = tokenizer.encode("ab")
        assert tokenizer.decode([*ids, tokenizer.end, *ids, tokenizer.end]) == "ab"
        assert tokenizer.decode([tokenizer.end]) == tokenizer.decode([]) == ""
        for bad in (-1, tokenizer.size):
            with pytest.raises(ValueError, match=f"no token {bad}; ids are 0 to {tokenizer.size - 1}"):
                tokenizer.decode([bad])


def test_an_unknown_character_is_named():
    with pytest.raises(ValueError, match="'ö' at position 2 is not among the 3 of the vocabulary"):
        character_tokenizer(["abc"]).encode("abö")


def test_a_lone_surrogate_is_named(bpe):
    for encode in (byte_tokenizer().encode, bpe.encode, lambda text: character_tokenizer([text])):
        with pytest.raises(ValueError, match=r"'\\ud800' at position 1 is not valid Unicode"):
            encode("~\ud800")


def test_vocabularies_that_cannot_be_made(bpe):
    for bad in ([], [""]):
        with pytest.raises(ValueError, match="no character"):
            character_tokenizer(bad)
        with pytest.raises(ValueError, match="no character"):
            train_bpe(bad, 300)
    for make in (character_tokenizer, lambda text: train_bpe(text, 300)):
        with pytest.raises(ValueError, match="must be a list of texts"):
            make("text")
    for bad in (256, 300.0, True):
        with pytest.raises(ValueError, match=r"size is .* at least 257"):
            train_bpe(CORPUS, bad)


# --- padding ----------------------------------------------------------------------------------------------------------


def test_pad():
    ids, length = pad([[1, 2, 3], [], np.array([4])], 4, fill=9)
    assert ids.tolist() == [[1, 2, 3, 9], [9, 9, 9, 9], [4, 9, 9, 9]] and length.tolist() == [3, 0, 1]
    assert ids.dtype == length.dtype == np.int32
    assert pad([[1, 2]])[0].shape == (1, 2) and pad([])[0].shape == (0, 0) and pad([], 5)[0].shape == (0, 5)
    with pytest.raises(ValueError, match="sequence 1 has 3 tokens; size is 2"):
        pad([[1], [1, 2, 3]], 2)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(library, bpe, tmp_path_factory):
    """Each kind of tokenizer, and what the library and `load` read from the file that it saves."""
    found = {}
    kinds = {"bytes": byte_tokenizer(), "characters": character_tokenizer([ALPHABET, *TEXTS]), "bpe": bpe}
    for name, tokenizer in kinds.items():
        folder = tmp_path_factory.mktemp("tokens") / name / "inner"
        tokenizer.save(folder)
        found[name] = (tokenizer, read_by_library(library, folder), load(folder))
    return found


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe"])
def test_the_library_and_load_read_the_same_ids(saved, kind):
    @settings(deadline=None, max_examples=50)
    @given(st.text(ALPHABET, max_size=20) if kind == "characters" else st.text(max_size=20))
    def same(text):
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids == loaded.encode(text)
        assert theirs.decode(ids, skip_special_tokens=False) == text == loaded.decode(ids)

    tokenizer, theirs, loaded = saved[kind]
    same()
    for text in TEXTS:
        same.hypothesis.inner_test(text)
    assert loaded.size == tokenizer.size == theirs.get_vocab_size(with_added_tokens=True)
    assert loaded.end == tokenizer.end == theirs.token_to_id("<|endoftext|>")
    assert theirs.decode([tokenizer.end], skip_special_tokens=True) == ""


def test_the_library_refuses_a_character_that_is_unknown(saved):
    with pytest.raises(Exception, match="UNK"):
        saved["characters"][1].encode("ö")


def test_byte_pairs_are_the_most_frequent_ones(library):
    """In five abc, three ab and a bc the pairs are ab, eight times, then ab c, five times, then b c, once."""
    texts = ["abc"] * 5 + ["ab"] * 3 + ["bc"]
    for count, expected in enumerate([["a b c", "b c"], ["ab c", "b c"], ["abc", "b c"], ["abc", "bc"], ["abc", "bc"]]):
        trained = train_bpe(texts, 257 + count)
        assert [" ".join(trained.decode([i]) for i in trained.encode(x)) for x in ("abc", "bc")] == expected
        assert trained.size == 257 + min(count, 3)  # there are three pairs


def test_bytes_and_characters_need_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for name, tokenizer in (("a", byte_tokenizer()), ("b", character_tokenizer(["né☃"]))):
        tokenizer.save(tmp_path / name)
        for path in (tmp_path / name, str(tmp_path / name / "tokenizer.json")):
            loaded = load(path)
            assert loaded.encode("né") == tokenizer.encode("né") and loaded[2:4] == tokenizer[2:4]
    with pytest.raises(ValueError, match=r"pip install 'purerl\[text\]'"):
        train_bpe(CORPUS, 300)
    found = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
    found["pre_tokenizer"]["add_prefix_space"] = True  # another tokenizer
    (tmp_path / "a" / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"pip install 'purerl\[text\]'"):
        load(tmp_path / "a")


# --- files of others --------------------------------------------------------------------------------------------------


def word_file(vocabulary, special=(), **more):
    """A tokenizer.json of whole words."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [{"id": vocabulary[x], "content": x, **flags, "special": True} for x in special],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        **more,
    }


WORDS = {"<unk>": 0, "a": 1, "b": 2, "</s>": 3, "<|im_end|>": 9}


@pytest.mark.parametrize(
    ("vocabulary", "config", "end"),
    [
        (WORDS, None, 3),
        (WORDS, {}, 3),
        (WORDS, {"eos_token_id": None}, 3),
        (WORDS, {"eos_token_id": 9}, 9),
        (WORDS, {"eos_token_id": [9, 3]}, 9),
        (WORDS, {"eos_token_id": 50256}, 3),  # the default of a GPT-2 config, of another vocabulary
        (WORDS | {"<|endoftext|>": 4}, None, 4),
        (WORDS, {"eos_token_id": True}, 3),
        ({"<unk>": 0, "a": 1, "b": 2}, {"eos_token_id": 2}, 2),
    ],
)
def test_the_end_token_of_other_tokenizers(library, tmp_path, vocabulary, config, end):
    truncation = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    text = json.dumps(word_file(vocabulary, truncation=truncation))
    (tmp_path / "tokenizer.json").write_text(text)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path)
    assert loaded.end == end and loaded.size == max(vocabulary.values()) + 1
    assert loaded.encode("a b a b") == [1, 2, 1, 2]  # the file's truncation to 1 is not applied
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_text() == text


def test_a_tokenizer_without_an_end(library, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(word_file({"<unk>": 0, "a": 1})))
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    with pytest.raises(ValueError, match=r"has no end token: .*eos_token_id"):
        load(tmp_path)


def test_what_is_special_in_a_file_is_text_in_a_text(library, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(word_file(WORDS, special=("</s>",))))
    assert load(tmp_path).encode("a a</s>") == [1, 0]  # an unknown word, not an end inside of it


BYTES = tokens._bytes_json()
HOSTILE = {
    "nothing": "",
    "not JSON": "import os",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no model": "{}",
    "a model that is a text": '{"model": "BPE"}',
    "an unknown model": '{"model": {"type": "Pickle", "vocab": {}}}',
    "no vocabulary": '{"model": {"type": "BPE"}}',
    "an empty vocabulary": json.dumps(word_file({})),
    "a negative id": json.dumps(word_file({"a": -1, "</s>": 0})),
    "a long id": json.dumps(word_file({"a": 2**40, "</s>": 0})),
    "a text for an id": json.dumps(word_file({"a": "b", "</s>": 0})),
    "characters without their ids": json.dumps(tokens._characters_json("ab") | {"model": {"vocab": {"a": [], "b": 1}}}),
    "a merge of unknown tokens": json.dumps(BYTES | {"model": BYTES["model"] | {"merges": ["☃ ☃"]}}),
    "a merge that is none": json.dumps(BYTES | {"model": BYTES["model"] | {"merges": [["a"]]}}),
    "a bad pattern": json.dumps(word_file(WORDS) | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}}),
    "a long number": '{"model": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_no_tokenizer_gives_one_line(library, tmp_path, monkeypatch, text):
    (tmp_path / "tokenizer.json").write_text(text)
    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(builtins, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    monkeypatch.undo()
    assert str(error.value).startswith(f"load: {tmp_path}") and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 300


def test_a_file_that_cannot_be_read(library, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as JSON: No such file"):
        load(tmp_path)
    with pytest.raises(ValueError, match="elsewhere cannot be read as JSON: No such file"):
        load(tmp_path / "elsewhere")
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"cannot be read as JSON: .*invalid start byte"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(word_file(WORDS)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read as JSON"):
        load(tmp_path)
