"""Images that follow each other, as a .gif or an .mp4."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .figures import Colors
from .pvd import explain_write_errors


def save_gif(path: Path, images: Iterable[Any], colors: Colors, fps: float) -> None:
    """Write Pillow images as a .gif, all with the same palette."""
    first, *others = [_reduce_colors(image, colors) for image in images]
    with explain_write_errors(path):
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=round(1000 / fps),
            loop=0,
            optimize=False,
        )


def _reduce_colors(frame, colors):
    """The frame with a palette that all frames share: the colours of the map, and greys for the
    rest.
    """
    from PIL import Image
    from scipy.spatial import cKDTree

    map_colors = colors.map(np.linspace(0, 1, 208), bytes=True)[:, :3]
    greys = np.linspace([0, 0, 0], [255, 255, 255], 48).round().astype(np.uint8)
    palette = np.concatenate([map_colors, greys])

    red, green, blue = np.moveaxis(np.asarray(frame, np.int64), -1, 0)
    different, place = np.unique(65536 * red + 256 * green + blue, return_inverse=True)
    pixels = np.stack([different >> 16, different >> 8 & 255, different & 255], axis=1)
    number = cKDTree(palette).query(pixels)[1]
    indexed = Image.fromarray(number.astype(np.uint8)[place].reshape(red.shape))
    indexed.putpalette(palette.tobytes())
    return indexed


def find_ffmpeg() -> str:
    """The program that writes an .mp4: the one on PATH, or that of the package imageio-ffmpeg."""
    program = shutil.which("ffmpeg")
    if program:
        return program
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise InputError(
            "an .mp4 is written by ffmpeg, which is not on PATH: 'pip install imageio-ffmpeg' or "
            "'apt-get install ffmpeg' gets it; a .gif needs nothing"
        ) from None


def save_mp4(path: Path, images: Iterable[Any], fps: float) -> None:
    """Write Pillow images as an .mp4 in H.264, which slides and browsers show."""
    frames = (_make_even(np.asarray(image)) for image in images)
    first = next(frames)
    height, width, _ = first.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -".split()
    target = "-c:v libx264 -pix_fmt yuv420p -crf 18 -movflags +faststart".split()
    command = [find_ffmpeg(), "-y", "-loglevel", "error", *source, *target, str(path)]
    with explain_write_errors(path), open(path, "wb"):
        pass

    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        try:
            for frame in (first, *frames):
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass
        problem = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise InputError(f"ffmpeg could not write {str(path)!r}: {problem[-300:]}; write a .gif")


def _make_even(frame):
    """The frame (height, width, 3), with a white line more where its sizes are odd."""
    height, width, _ = frame.shape
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frame, padding, constant_values=255)
