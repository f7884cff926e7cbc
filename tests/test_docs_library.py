"""The code in docs/library.md runs as it stands."""

import re

from helpers import paths, tiny_world

PAGE = paths.ROOT / "docs" / "library.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_blocks_run_one_after_the_other(monkeypatch, tmp_path):
    model = tiny_world.world_model()
    monkeypatch.setattr("mirage_jax.world.load", {"demo": model}.__getitem__)
    monkeypatch.setattr("mirage_jax.world.session.warm_up", lambda session, progress: None)
    monkeypatch.chdir(tmp_path)
    text, names = PAGE.read_text(), {"__name__": "library"}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python") > 3
    for block in blocks:
        # With the page's own line numbers in tracebacks.
        lines = "\n" * (text[: block.start(1)].count("\n"))
        exec(compile(lines + block[1], str(PAGE), "exec"), names)
    assert names["several"].tokens.shape == (1, 2, 4, 6, 3)
    assert names["written"].tolist() == [24, 24]
    # Both frames see the same; of equally near elements the first is shown.
    assert (names["gradient"][0] == 4).all() and not names["gradient"][1].any()
    assert names["velocity"].shape == (1, 2, 4, 6, 3)
    assert [int(names[n].world.frames) for n in ("session", "other")] == [5, 9]
    assert names["reward"] == 1 and names["info"]["video"].shape == (2, 4, *tiny_world.SIZE, 3)
