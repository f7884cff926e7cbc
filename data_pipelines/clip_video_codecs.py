"""Codecs that store the video of a clip as a video stream; see `clip_codecs`."""

import dataclasses
import io
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import av
import numpy as np
from av.video.stream import VideoStream

from mirage_jax.io.av_files import open_video


@dataclasses.dataclass(frozen=True)
class Ffv1:
    """Frames as FFV1, bit for bit; a third to a half of the raw bytes."""

    name: ClassVar[str] = "ffv1"
    parts: ClassVar[tuple[str, ...]] = ("video",)

    def encode(self, array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        return _encode(array, "ffv1", "bgr0", {"level": "3", "g": "1"}), {}

    @staticmethod
    def decode(stored: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return _decode(stored)


@dataclasses.dataclass(frozen=True)
class H264:
    """Frames as H.264 with colour at full resolution; a tenth of the raw bytes by default.

    The parameters are `crf` and `psnr`, decibels of the whole clip as it is read back.

    Attributes:
      crf: quality of x264, lower is better; 6 gives about 40 dB.
    """

    crf: int = 6
    name: ClassVar[str] = "h264"
    parts: ClassVar[tuple[str, ...]] = ("video",)

    def encode(self, array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"found crf {self.crf}, expected 0 to 51")
        stored = _encode(array, "libx264", "yuv444p", {"crf": str(self.crf), "g": "16"})
        error = np.mean((_decode(stored).astype(np.float32) - array) ** 2, dtype=np.float64)
        psnr = 10 * np.log10(255.0**2 / max(error, 1e-5))
        return stored, {"crf": self.crf, "psnr": round(float(psnr), 2)}

    @staticmethod
    def decode(stored: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return _decode(stored)


def _encode(video: np.ndarray, codec: str, pixels: str, options: Mapping[str, str]) -> np.ndarray:
    """The frames as a Matroska file of one stream; the same frames give the same bytes."""
    if codec not in av.codecs_available:
        raise ValueError(f"found no encoder {codec!r} in FFmpeg here, expected it")
    file = io.BytesIO()
    # Without random identifiers and versions of libraries; one thread, so that no frame is split.
    exact = {"fflags": "+bitexact"}
    with av.open(file, "w", format="matroska", options=exact) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = dict(options)
        stream.codec_context.thread_count = 1
        for picture in video:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return np.frombuffer(file.getvalue(), np.uint8)


def _decode(stored: np.ndarray) -> np.ndarray:
    """Raises ValueError for bytes that are no video; frames that are missing show in the shape."""
    try:
        with open_video(io.BytesIO(stored.tobytes())) as container:
            return np.stack(list(_pictures(container)))
    except av.FFmpegError as error:
        raise ValueError(f"not a readable video stream ({error.strerror})") from error


def _pictures(container: Any) -> Iterator[np.ndarray]:
    container.streams.video[0].codec_context.thread_count = 1  # loaders decode several clips
    for frame in container.decode(video=0):
        yield frame.to_ndarray(format="rgb24")
