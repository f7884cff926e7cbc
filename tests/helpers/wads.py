"""WAD files written byte by byte."""

import struct

# Rooms side by side, 256 wide each and 512 deep: (floor, ceiling, ceiling texture).
ROOMS = [(0, 128, "FLAT1"), (24, 96, "FLAT1"), (-40, 200, "F_SKY1")]


def pack_wad(lumps):
    body, directory = b"", b""
    for name, content in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(content), name.encode())
        body += content
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory


def row_of_rooms(rooms=ROOMS, fence_after=None, last_vertex=None):
    """Lumps of a map whose rooms lie along +x, joined along their whole sides."""
    vertices, lines, sides = [], [], []
    for i in range(len(rooms) + 1):
        vertices += [(256 * i, 0), (256 * i, 512)]

    def side(sector, middle="-"):
        sides.append(struct.pack("<hh8s8s8sH", 0, 0, b"-", b"-", middle.encode(), sector))
        return len(sides) - 1

    def line(start, end, right, left=0xFFFF):
        lines.append(struct.pack("<7H", start, end, 1 if left == 0xFFFF else 4, 0, 0, right, left))

    for i in range(len(rooms)):  # the front is to the right of a line's direction
        line(2 * i + 1, 2 * i + 3, side(i, "WALL"))
        line(2 * i + 2, 2 * i, side(i, "WALL"))
        if i:
            middle = "FENCE" if fence_after == i - 1 else "-"
            line(2 * i, 2 * i + 1, side(i, middle), side(i - 1, middle))
    line(0, 1, side(0, "WALL"))
    line(last_vertex or 2 * len(rooms) + 1, 2 * len(rooms), side(len(rooms) - 1, "WALL"))
    sectors = [
        struct.pack("<hh8s8shhh", floor, ceiling, b"FLAT2", texture.encode(), 160, 0, 0)
        for floor, ceiling, texture in rooms
    ]
    things = [struct.pack("<hhhHH", 128, 256, 0, 1, 7), struct.pack("<hhhHH", 640, 256, 0, 2035, 7)]
    return [
        ("MAP01", b""),
        ("THINGS", b"".join(things)),
        ("LINEDEFS", b"".join(lines)),
        ("SIDEDEFS", b"".join(sides)),
        ("VERTEXES", b"".join(struct.pack("<hh", *v) for v in vertices)),
        ("SECTORS", b"".join(sectors)),
    ]
