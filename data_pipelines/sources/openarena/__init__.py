"""Maps of OpenArena, or of another game in the format of Quake III: files, shapes, rendering."""
