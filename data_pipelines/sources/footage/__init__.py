"""Own footage: videos, picture folders and data sets of other projects, by layout.

To add a layout, write a module as `formats` says and enter it in `formats.FORMATS`.
"""
