"""The game's files: pk3 archives (zip) of which a later one, by name, replaces files of another."""

import re
import zipfile
import zlib
from pathlib import Path

MOST_BYTES = 256 << 20
"""Of one file; the largest map has 20 MiB."""
_PICTURES = (".jpg", ".tga", ".jpeg", ".png")


class GameFiles:
    """Files by their names in lower case, "maps/oa_dm1.bsp"; reads are of whole files."""

    def __init__(self, root: str | Path) -> None:
        """Opens every archive below `root`; FileNotFoundError where there is none.

        ValueError, naming it, for an archive that is none.
        """
        found = {path.resolve() for path in Path(root).rglob("*.pk3") if path.is_file()}
        if not found:
            raise FileNotFoundError(
                f"{root}: found no .pk3 file, expected those of OpenArena's data, as Debian's "
                "packages openarena-data and openarena-081-maps have them"
            )
        self._where: dict[str, tuple[zipfile.ZipFile, str, Path]] = {}
        for path in sorted(found, key=lambda path: path.name.lower()):
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
                raise ValueError(f"{path}: {error}, expected a pk3 (zip) archive") from None
            names = archive.namelist()
            self._where |= {name.lower(): (archive, name, path) for name in names}

    def names(self, folder: str, suffix: str) -> tuple[str, ...]:
        """Sorted names of the files right below a folder with this suffix, without both."""
        pattern = re.compile(f"{re.escape(folder)}/([^/]+){re.escape(suffix)}")
        matches = (pattern.fullmatch(name) for name in self._where)
        return tuple(sorted(match[1] for match in matches if match))

    def read(self, name: str) -> bytes:
        """The content; KeyError for no such file, ValueError, naming it, for a damaged one."""
        archive, member, _ = self._where[name.lower()]
        if archive.getinfo(member).file_size > MOST_BYTES:
            raise ValueError(f"{self.where(name)}: expected at most {MOST_BYTES} bytes")
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
            raise ValueError(f"{self.where(name)}: {error}, expected a whole file") from None

    def where(self, name: str) -> str:
        """Archive and name of a file, for messages."""
        _, member, path = self._where[name.lower()]
        return f"{path}, {member}"

    def picture(self, name: str) -> str | None:
        """Name of the picture that a shader means, whatever its suffix; None: there is none."""
        stem = re.sub(r"\.(tga|jpe?g|png)$", "", name.lower())
        return next((stem + end for end in _PICTURES if stem + end in self._where), None)
