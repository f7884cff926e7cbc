"""Tokenizing of prompts, and files of text embeddings."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mirage_jax.io.text import TextEmbeddings, Tokenizer, clean, load_embeddings, save_embeddings

WORDS = ("<pad>", "</s>", "<unk>", "a", "room", "with", '"', "'", "&", "door", "red")


# Expected: what ftfy 6.3.1, html.unescape twice and the collapse of white space give.
@pytest.mark.parametrize(
    "text, expected",
    [
        ("  a \n\t room\u3000with ", "a room with"),
        ("a &amp;amp; b &amp;lt;c&gt; &quot;d&quot;", 'a & b <c> "d"'),
        ("it\u2019s a \u201croom\u201d&nbsp;", 'it\'s a "room"'),
        ("色调艳丽，过曝…", "色调艳丽,过曝…"),
        ("\ufeffﬁne\u3000ｆｕｌｌ cafe\u0301 ﾌﾞ", "fine full caf\u00e9 ブ"),
        ("tab\tx\x07y\x1fz\x00", "tab xyz"),
        (" \n", ""),
    ],
)
def test_clean(text, expected):
    assert clean(text) == expected
    assert clean(clean(text)) == expected


# ---- tokenizer


@pytest.fixture
def tokenizer_json(tmp_path):
    """A file like UMT5's: one id per word, an end token appended to every text."""
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {word: i for i, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.enable_padding(length=3, pad_id=2)  # what the file says about padding is not asked
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_tokenizer(tokenizer_json):
    ids, mask = Tokenizer(tokenizer_json)(["  a &quot;red&quot;\nroom", "", "dragon"], length=7)
    assert ids.tolist() == [[3, 6, 10, 6, 4, 1, 0], [1, 0, 0, 0, 0, 0, 0], [2, 1, 0, 0, 0, 0, 0]]
    assert mask.sum(axis=1).tolist() == [6, 1, 2]
    assert (mask[:, 1:] <= mask[:, :-1]).all()
    assert ids.dtype == np.int32


def test_a_long_text_is_cut_and_ended(tokenizer_json):
    tokenizer = Tokenizer(tokenizer_json)
    ids, mask = tokenizer(["a room " * 300])
    assert ids.tolist() == [[3, 4] * 255 + [3, 1]] and mask.all()
    assert tokenizer(["a red door"], length=3)[0].tolist() == [[3, 10, 1]]
    with pytest.raises(ValueError, match="length: found 0"):
        tokenizer(["a"], length=0)


def test_tokenizer_refuses_other_files(tokenizer_json, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        Tokenizer(tmp_path / "nowhere.json")
    made = json.loads(tokenizer_json.read_text())
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({**made, "post_processor": None}))
    with pytest.raises(ValueError, match=r"bad\.json: an empty text gave ids \[\]"):
        Tokenizer(bad)
    made["model"]["vocab"] = {"<unk>": 0, "</s>": 1}
    bad.write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"bad\.json: no token '<pad>'"):
        Tokenizer(bad)
    bad.write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json: not a tokenizer\.json"):
        Tokenizer(bad)


@pytest.mark.parametrize(
    ("package", "file"), [("tokenizers", "tokenizer.json"), ("sentencepiece", "spiece.model")]
)
def test_says_what_to_install(monkeypatch, tmp_path, package, file):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is not.*mirage_jax\[text\]"):
        Tokenizer(tmp_path / file)


# ---- spiece.model

SPECIAL = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
TEXTS = (
    "a red door with a blue room",
    "  A   r\u00e9d &quot;r\u00f6om&quot;\n",
    "",
    "zq\u8272 unseen \u2603\u2603 words",
    "\uff46\uff55\uff4c\uff4c width \u2019 and \u2026",
)


def spiece(path, **options):
    """Trains a tiny unigram model; special tokens as UMT5 numbers them."""
    sentencepiece = pytest.importorskip("sentencepiece")
    rooms = [f"a {c} room with {n} doors" for c in ("red", "blue", "grey") for n in range(40)]
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*rooms, 'walk through the full width and "look" back'] * 3),
            model_writer=stream,
            vocab_size=70,
            model_type="unigram",
            hard_vocab_limit=False,
            minloglevel=2,
            **{**SPECIAL, **options},
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("spiece") / "spiece.model"
    return path, spiece(path)


def test_a_spiece_model_gives_its_ids_and_an_end(model):
    path, processor = model
    ids, mask = Tokenizer(path)(TEXTS, length=40)
    assert ids.dtype == np.int32 and ids.shape == (5, 40)
    for row, text in enumerate(TEXTS):
        found = processor.encode(clean(text))
        assert ids[row].tolist() == [*found, 1] + [0] * (39 - len(found))
        assert mask[row].sum() == len(found) + 1 and mask[row, : len(found) + 1].all()
    assert ids[2, 0] == 1 and 2 in ids[3]
    cut, mask = Tokenizer(path)(TEXTS[:1], length=4)
    assert cut.tolist() == [[*ids[0, :3], 1]] and mask.all()
    assert Tokenizer(path)(TEXTS, length=1)[0].tolist() == [[1]] * 5


def test_both_files_give_the_same(model, tmp_path):
    """A tokenizer.json of the same pieces, made as Hugging Face makes UMT5's."""
    tokenizers = pytest.importorskip("tokenizers")
    path, processor = model
    count = processor.get_piece_size()
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(count)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 2, False))
    made.normalizer = tokenizers.normalizers.NFKC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    for length in (40, 6):
        one, other = (f(TEXTS, length) for f in map(Tokenizer, (path, tmp_path / "tokenizer.json")))
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_other_spiece_models_are_refused(tmp_path):
    pytest.importorskip("sentencepiece")
    bad = tmp_path / "bad.model"
    with pytest.raises(FileNotFoundError, match=r"bad\.model: no such file; .* spiece\.model"):
        Tokenizer(bad)
    for content in (b"", b"{}", b"no model at all"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.model: not a model of sentencepiece"):
            Tokenizer(bad)
    spiece(bad, pad_id=-1, unk_id=0)
    with pytest.raises(ValueError, match=r"bad\.model: no token '<pad>'"):
        Tokenizer(bad)
    spiece(bad, eos_id=-1, unk_id=1)
    with pytest.raises(ValueError, match=r"bad\.model: no token '</s>'"):
        Tokenizer(bad)


# ---- files of embeddings


def embeddings(dtype=np.float32, lengths=(3, 1, 5)):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(3, 6, 4)).astype(dtype)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    return TextEmbeddings(("a room", "", "ein Flur – 走廊"), tokens, np.array(lengths, np.int32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_file_round_trip(tmp_path, dtype):
    made = embeddings(dtype)
    save_embeddings(tmp_path / "text.safetensors", made)
    found = load_embeddings(tmp_path / "text.safetensors", width=4)
    assert found.prompts == made.prompts
    assert found.tokens.dtype == dtype
    np.testing.assert_array_equal(found.tokens, made.tokens)
    np.testing.assert_array_equal(found.lengths, made.lengths)
    assert [path.name for path in tmp_path.iterdir()] == ["text.safetensors"]
    (tmp_path / "any").touch()
    assert (tmp_path / "text.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode
    assert load_file(tmp_path / "text.safetensors")["tokens"].shape == (9, 4)


def test_lookup_by_prompt():
    made = embeddings()
    np.testing.assert_array_equal(made.of(["", "a room", ""]), made.tokens[[1, 0, 1]])
    with pytest.raises(ValueError, match="prompt 'a hall': found none like it among 3"):
        made.of(["a room", "a hall"])


def test_refuses_to_save_what_could_not_be_read(tmp_path):
    path = tmp_path / "text.safetensors"
    made = embeddings()

    def refused(match, prompts=made.prompts, tokens=made.tokens, lengths=made.lengths):
        with pytest.raises(ValueError, match=rf"text\.safetensors: {match}"):
            save_embeddings(path, TextEmbeddings(prompts, tokens, np.array(lengths, np.int32)))

    refused("found 2 prompts, expected 3", prompts=("a", "b"))
    refused("a prompt is there twice", prompts=("a", "b", "a"))
    refused("lengths: found", lengths=[3, 1, 7])
    refused("tokens beyond the length of a text", lengths=[3, 1, 4])
    refused("found values that are not finite", tokens=np.where(made.tokens, np.nan, 0))
    short = embeddings()
    object.__setattr__(short, "tokens", made.tokens[:2])  # past the signature's check
    with pytest.raises(ValueError, match=r"text\.safetensors: tokens of 2 texts, expected 3"):
        save_embeddings(path, short)
    with pytest.raises(OSError, match=r"nowhere/text\.safetensors: could not be written"):
        save_embeddings(tmp_path / "nowhere" / "text.safetensors", made)
    assert not list(tmp_path.iterdir())


def test_refuses_other_files(tmp_path):
    path = tmp_path / "text.safetensors"
    with pytest.raises(FileNotFoundError, match=r"text\.safetensors: no such file"):
        load_embeddings(path)
    save_embeddings(path, embeddings())
    with pytest.raises(ValueError, match=r"text\.safetensors: found 4 channels, expected 4096"):
        load_embeddings(path, width=4096)
    tensors, whole = load_file(path), path.read_bytes()
    header = {"format": "mirage-text-1", "length": 6, "prompts": ["a", "b", "c"]}

    def refused(match, header=header, **changed):
        text = header if isinstance(header, str) else json.dumps(header)
        kept = {n: a for n, a in {**tensors, **changed}.items() if a is not None}
        save_file(kept, path, metadata={"text": text})
        with pytest.raises(ValueError, match=rf"text\.safetensors: {match}"):
            load_embeddings(path)

    refused("found format 'other', expected 'mirage-text-2'", {**header, "format": "other"})
    refused("found format None", "{}")
    refused("damaged or not text embeddings", "{")
    refused("field 'length' is missing", {k: v for k, v in header.items() if k != "length"})
    refused("found 2 prompts, expected 3", {**header, "prompts": ["a", "b"]})
    refused("lengths: found", {**header, "length": 4})
    refused("tensor 'lengths' is missing", lengths=None)
    refused("tensor 'tokens': found shape", tokens=np.zeros(9, np.float32))
    refused("found 8 tokens, expected 9", tokens=tensors["tokens"][:8])
    refused("found values that are not finite", tokens=tensors["tokens"] * np.float32("inf"))
    for damaged in (whole[:-3], b"", b"not safetensors at all"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"text\.safetensors: damaged"):
            load_embeddings(path)
