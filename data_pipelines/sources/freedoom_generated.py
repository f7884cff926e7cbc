"""Maps without end in Freedoom's textures: rooms, corridors, steps, doors and lights from a seed.

The engine, the camera and the depth are those of `vizdoom`; the maps are planned by
`generated_maps`. A map is its number: training has as many as are asked for, held-out ones are
numbered from 0 apart from them.
"""

import dataclasses
import re
import zlib
from typing import ClassVar

import numpy as np

from data_pipelines.sources import doom_map
from data_pipelines.sources.options import option
from data_pipelines.sources.rendered import worlds_of_split
from data_pipelines.sources.vizdoom import FreedoomSource, Level, wad_path

MAP_NAME = "MAP01"  # that of Freedoom 2 which a generated map takes the place of
MOST_MAPS = 1_000_000
_WORLD = re.compile(r"(train|eval)-\d{6}")


@dataclasses.dataclass(frozen=True)
class FreedoomGeneratedSource(FreedoomSource):
    """Clips of generated maps, "train-000017" or "eval-000003".

    Attributes:
      rejected: as for every rendered source.
    """

    maps: int = option(200, "maps to train on", 1, MOST_MAPS)
    eval_maps: int = option(16, "held-out maps", 1, MOST_MAPS)
    name: ClassVar[str] = "freedoom_generated"

    def worlds(self, split: str) -> tuple[str, ...]:
        """Worlds of split "train" or "eval"; ValueError for another."""
        counts = {"train": self.maps, "eval": self.eval_maps}
        named = {s: tuple(f"{s}-{i:06d}" for i in range(n)) for s, n in counts.items()}
        return worlds_of_split(named, split)

    def check_world(self, world: str) -> None:
        """Raises ValueError for what is no number of a map; those beyond `maps` are maps too."""
        if not _WORLD.fullmatch(world):
            raise ValueError(f"world {world!r}, expected train-NNNNNN or eval-NNNNNN")

    def level(self, world: str) -> Level:
        """The map of a world, the same for every source."""
        from data_pipelines.sources.generated_maps.layout import make_layout
        from data_pipelines.sources.generated_maps.lumps import map_lumps

        rng = np.random.default_rng([zlib.crc32(self.name.encode()), zlib.crc32(world.encode())])
        lumps = map_lumps(make_layout(rng), rng)
        built = doom_map.build_map(MAP_NAME, lumps, f"generated map {world}")
        return Level(wad_path("freedoom2"), built, ((MAP_NAME, b""), *lumps.items()))
