"""Contact sheets of clips, with and without what may be absent."""

import dataclasses

import numpy as np

from data_pipelines.card import contact_sheet
from helpers.made_clips import bare, make_clip

UNKNOWN = [40, 60, 160]


def test_a_sheet_shows_frames_and_nearness_with_movers_in_red():
    clip = make_clip(frames=1, height=2, width=2)
    depth, movers = clip.depth, np.zeros_like(clip.mover_ids)
    depth[0] = [[1.0, 1.0], [8.0, 0.0]]
    movers[0, 0, 1] = 5
    clip = dataclasses.replace(clip, depth=depth, mover_ids=movers)
    sheet = np.asarray(contact_sheet([clip], columns=1, cell=2))
    assert sheet.shape == (14 + 2 * 2, 2, 3)
    np.testing.assert_array_equal(sheet[14:16], clip.video[0])
    near, mover, far, unknown = sheet[16:].reshape(4, 3).tolist()
    assert near == [255, 255, 255] and mover == [255, 85, 85] and unknown == UNKNOWN
    assert far[0] == far[1] == far[2] == int(255 / 8**0.7)


def test_what_is_absent_is_drawn_as_unknown():
    clip = make_clip(frames=1, height=2, width=2)
    sheet = np.asarray(contact_sheet([bare(clip)], columns=1, cell=2))
    np.testing.assert_array_equal(sheet[14:16], clip.video[0])
    assert (sheet[16:] == UNKNOWN).all()
    sheet = np.asarray(contact_sheet([dataclasses.replace(clip, mover_ids=None)], 1, 2))
    grey = sheet[16:].reshape(4, 3)[2:]  # the first two pixels are unknown and sky
    assert (grey == grey[:, :1]).all() and (grey > 0).all()
