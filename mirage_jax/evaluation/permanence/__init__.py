"""Permanence: is what walked out of sight still there, who it was, and where it should be?

The judge is the simulator itself: pictures are compared with renderings of the same moment in which
a body is elsewhere, looks otherwise, or is not there. docs/permanence.md says how it is scored.
"""
