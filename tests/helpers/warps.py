"""How well the geometry of clips predicts their pictures."""

import numpy as np

from data_pipelines.sources.warp_check import warp_frame


def psnrs(clips, pairs):
    """Mean PSNR of warped and of unwarped frames over pairs (source, target) of each clip."""
    warps = [warp_frame(clip, source, target) for clip in clips for source, target in pairs]
    assert np.mean([warp.coverage for warp in warps]) > 0.3
    return np.nanmean([[warp.psnr, warp.psnr_unwarped] for warp in warps], axis=0)
