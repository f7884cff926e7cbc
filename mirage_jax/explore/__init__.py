"""The explorer: a world walked through in a browser, over one port of this machine.

`server` serves the page and one WebSocket; `hub` holds the walkers and their limits; `walker` is
one of them; `protocol` is what page and server say to each other (docs/explore.md).
"""
