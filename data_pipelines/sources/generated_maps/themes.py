"""Which of Freedoom's textures go together. Still ones only: time stands still in most clips."""

from dataclasses import dataclass

SKY = "F_SKY1"


@dataclass(frozen=True)
class Theme:
    """Names of textures (walls) and flats (floors and ceilings) of Freedoom 2.

    Attributes:
      walls: of rooms, one to a room.
      accents: single panels, 64 map units wide, in those walls.
      floors, ceilings: flats.
      lamps: flats of bright openings in the ceiling.
      risers: of steps and platforms.
      doors: closed doors, and what hangs over open ones.
      pillars: of what stands in a room up to its ceiling.
      things: numbers of decorations.
    """

    walls: tuple[str, ...]
    accents: tuple[str, ...]
    floors: tuple[str, ...]
    ceilings: tuple[str, ...]
    lamps: tuple[str, ...]
    risers: tuple[str, ...]
    doors: tuple[str, ...]
    pillars: tuple[str, ...]
    things: tuple[int, ...]


CRATES = (("CRATE1", "CRATOP2"), ("CRATE2", "CRATOP1"))
"""Sides and top of what stands about, half as high as a room."""

MONSTERS = (3004, 9, 3001, 3002, 65)

THEMES = (
    Theme(
        walls=("STARTAN2", "STARG2", "STARGR2", "TEKWALL1", "METAL1", "SILVER1", "SHAWN2"),
        accents=("COMPWERA", "COMPWERB", "COMPBLUE", "LITE2", "SILVER3", "SW1COMP", "TEKBRON2"),
        floors=("FLOOR0_1", "FLOOR4_8", "FLOOR5_1", "FLOOR5_2", "FLAT4", "FLOOR3_3"),
        ceilings=("CEIL3_5", "CEIL5_1", "CEIL5_2", "FLAT19", "FLAT20", "CEIL4_2", "COMP01"),
        lamps=("TLITE6_1", "TLITE6_5", "TLITE6_6", "FLAT2", "FLAT17"),
        risers=("STEP1", "STEP2", "STEP4"),
        doors=("BIGDOOR1", "BIGDOOR2", "BIGDOOR3", "BIGDOOR4"),
        pillars=("SUPPORT2", "METAL2", "COMPSPAN", "PIPES", "LITE3"),
        things=(2028, 48, 2035, 2012, 2018),
    ),
    Theme(
        walls=("BRICK1", "BRICK4", "BRICK7", "BIGBRIK1", "BIGBRIK2", "BRICK10", "STONE2"),
        accents=("BRICKLIT", "BRWINDOW", "SW1BRIK", "PANBOOK", "PANCASE1", "WOOD9", "STUCCO2"),
        floors=("FLAT5", "FLAT5_1", "FLAT5_4", "FLOOR7_1", "RROCK09", "RROCK14", "CONS1_7"),
        ceilings=("CEIL1_1", "CEIL3_1", "CEIL3_3", "FLAT5_2", "FLAT1", "FLOOR7_1"),
        lamps=("CEIL1_2", "CEIL1_3", "FLAT22", "TLITE6_4"),
        risers=("STEP5", "STEP6", "BRICK3"),
        doors=("BIGDOOR5", "BIGDOOR6", "BIGDOOR7", "WOOD8"),
        pillars=("WOOD4", "PANEL5", "SUPPORT3", "BRICK6", "BRONZE1"),
        things=(35, 34, 2028, 2014, 2035),
    ),
    Theme(
        walls=("MARBLE1", "GSTONE1", "GSTONE2", "STONE3", "MARBGRAY", "BSTONE1", "CRACKLE2"),
        accents=("GSTLION", "GSTSATYR", "GSTGARG", "MARBFAC4", "SW1GARG", "BSTONE3", "WOODSKUL"),
        floors=("DEM1_5", "DEM1_6", "FLOOR7_2", "FLAT1_1", "RROCK03", "MFLR8_1", "FLAT10"),
        ceilings=("DEM1_5", "FLOOR7_2", "CEIL1_1", "RROCK03", "MFLR8_4", "FLOOR6_2"),
        lamps=("FLAT22", "GATE4", "CEIL1_2"),
        risers=("STEP3", "STEP6", "MARBGRAY"),
        doors=("BIGDOOR5", "BIGDOOR6", "SKULWALL", "MARBFACE"),
        pillars=("MARBFAC4", "METAL", "SKSNAKE1", "WOODMET1", "SUPPORT3"),
        things=(30, 31, 32, 33, 35, 34),
    ),
    Theme(
        walls=("ROCK1", "ROCK3", "ASHWALL2", "ASHWALL4", "TANROCK2", "TANROCK4", "ZIMMER2"),
        accents=("ROCK2", "SW1ROCK", "ZIMMER7", "STUCCO1", "WOODMET2", "SW1ZIM", "TANROCK7"),
        floors=("RROCK04", "RROCK11", "RROCK16", "RROCK17", "RROCK19", "GRASS1", "MFLR8_3"),
        ceilings=("RROCK04", "RROCK13", "RROCK18", "FLAT10", "MFLR8_2", "RROCK20"),
        lamps=("FLAT22", "CEIL1_2", "TLITE6_4"),
        risers=("ROCK1", "STEP6", "ASHWALL2"),
        doors=("BIGDOOR7", "WOODMET3", "BIGDOOR5", "WOOD8"),
        pillars=("ROCK2", "WOOD4", "ZIMMER5", "SUPPORT3", "TANROCK5"),
        things=(43, 47, 54, 34, 2035),
    ),
)
