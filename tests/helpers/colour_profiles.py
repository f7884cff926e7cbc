"""Colour profiles of pictures."""

from PIL import ImageCms


def linear_rgb_profile():
    """The sRGB profile with a straight line for every tone curve."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(int.from_bytes(data[128:132], "big")):
        entry = 132 + 12 * index
        place = int.from_bytes(data[entry + 4 : entry + 8], "big")
        if data[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            data[place : place + 12] = b"curv" + bytes(8)
        if data[entry : entry + 4] == b"desc":
            size = int.from_bytes(data[entry + 8 : entry + 12], "big")
            text = data[place : place + size]
            data[place : place + size] = text.replace(
                "sRGB".encode("utf-16-be"), "line".encode("utf-16-be")
            )
    return bytes(data)
