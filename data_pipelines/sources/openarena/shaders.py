"""What shader scripts say of a surface, as far as it is drawn here: its picture and its holes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.sources.openarena.files import GameFiles


@dataclass(frozen=True)
class Shader:
    """Attributes: picture (name of a file, "" = the shader's own), holes (where its alpha is below
    one half), glow (adds light to what is behind, and hides nothing).
    """

    picture: str = ""
    holes: bool = False
    glow: bool = False


def read_shaders(files: GameFiles) -> dict[str, Shader]:
    """Every shader of the game's scripts, by its name in lower case."""
    shaders: dict[str, Shader] = {}
    for name in files.names("scripts", ".shader"):
        text = files.read(f"scripts/{name}.shader").decode("latin-1")
        shaders |= dict(parse_shaders(text))
    return shaders


def parse_shaders(text: str) -> Iterator[tuple[str, Shader]]:
    """Names and shaders of a script: NAME { key value ... { map FILE, blendfunc ... } ... }."""
    name, depth, lines = "", 0, list[list[str]]()
    for line in (
        re.sub(r"//[^\n]*", "", text)
        .lower()
        .replace("{", "\n{\n")
        .replace("}", "\n}\n")
        .split("\n")
    ):
        words = line.split()
        if words == ["{"]:
            depth += 1
        elif words == ["}"]:
            depth = max(depth - 1, 0)
            if not depth and name:
                yield name, _shader(lines)
                name, lines = "", []
        elif words and depth:
            lines.append(words)
        elif words:
            name = words[0]


def _shader(lines: list[list[str]]) -> Shader:
    pictures = [words[1] for words in lines if words[0] in ("map", "clampmap") and words[1:]]
    pictures += [words[2] for words in lines if words[0] == "animmap" and words[2:]]
    real = [picture for picture in pictures if not picture.startswith("$")]
    blends = [words[1] for words in lines if words[0] == "blendfunc" and words[1:]]
    parameters = {words[1] for words in lines if words[0] == "surfaceparm" and words[1:]}
    adds = any(blend in ("add", "gl_one") for blend in blends)
    return Shader(
        picture=real[0] if real else "",
        holes=any(words[0] == "alphafunc" for words in lines),
        glow=adds and bool(parameters & {"trans", "nolightmap"}),
    )
