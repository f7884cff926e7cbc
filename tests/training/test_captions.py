"""Embedded captions: every clip gets its own, by the number it was recorded as."""

import itertools

import numpy as np
import pytest

from mirage_jax.io.text import TextEmbeddings
from mirage_jax.training.captions import BATCH, Captions, WithCaptions, write_captions

WIDTH = 3
PROMPT = np.full((6, WIDTH), 9, np.float32)


def tokens_of(text):
    """As many tokens as the text has letters, each with the letter in it."""
    return np.array([[ord(letter), k, 1] for k, letter in enumerate(text)], np.float32)


class Embedder:
    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        tokens = np.zeros((len(texts), 6, WIDTH), np.float32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = tokens_of(text) if text else 0
        return TextEmbeddings(tuple(texts), tokens, np.array([len(t) for t in texts], np.int32))


class Numbered:
    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return {"number": self.numbers[index]}

    def title(self, index):
        return f"clip {self.numbers[index]}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "latents" / "walks-train-captions.array_record"


def test_every_clip_gets_its_own_caption_and_each_text_is_embedded_once(path):
    texts = ["".join(pair) for pair in itertools.product("abc", "xyz")] * 2
    texts[4] = texts[11] = None
    texts[0] = ""
    embed = Embedder()
    assert write_captions(path, iter(texts), embed) == (15, 9)
    assert all(len(batch) == BATCH for batch in embed.asked)
    asked = [text for batch in embed.asked for text in batch if text]
    assert sorted(asked) == sorted({text for text in texts if text})
    captions = Captions(path)
    assert len(captions) == 18
    for number, text in enumerate(texts):
        found = captions.of_clip(number)
        if text:
            np.testing.assert_array_equal(found, tokens_of(text))
        else:
            assert found is None
    # Clips that a cache lacks do not move the captions of others.
    left_out = {2: "damaged", 16: "damaged"}
    kept = [number for number in range(18) if number not in left_out]
    source = WithCaptions(Numbered(kept), captions, PROMPT, left_out)
    for index, number in enumerate(kept):
        record, text = source[index], texts[number]
        assert record["number"] == number and source.title(index) == f"clip {number}"
        expected = np.zeros_like(PROMPT) if text else PROMPT
        if text:
            expected[: len(text)] = tokens_of(text)
        np.testing.assert_array_equal(record["text"], expected)


def test_captions_of_other_clips_and_texts_are_refused(path):
    with pytest.raises(FileNotFoundError, match=r"captions\.array_record: no embedded captions"):
        Captions(path)
    write_captions(path, ["abc", None], Embedder())
    captions = Captions(path)
    with pytest.raises(ValueError, match="found captions of 2 clips, expected 3"):
        WithCaptions(Numbered([0, 1]), captions, PROMPT, {2: "damaged"})
    for prompt in (PROMPT[:2], PROMPT[:, :2]):
        with pytest.raises(
            ValueError, match=r"clip 0: found a caption of shape \(3, 3\), expected"
        ):
            WithCaptions(Numbered([0, 1]), captions, prompt)[0]
    assert write_captions(path, [None, None], Embedder()) == (0, 0)
    assert Captions(path).of_clip(1) is None
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"captions\.array_record: damaged embedded captions"):
        Captions(path)
