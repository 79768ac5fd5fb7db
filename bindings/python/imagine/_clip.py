# SPDX-License-Identifier: MIT
"""Frames that a notebook shows by itself."""

from __future__ import annotations

import base64
import os
import pathlib
import tempfile
from typing import Any, Dict, Optional

from ._errors import Path, call, integer, invalid, number, path as c_path
from ._handles import Array, Buffer, Context, as_array, need_numpy, of


def rate(fps: float, frames: int = 0) -> float:
    """Frames a second as a PNG has them; one of a single frame has none."""
    value = number("fps", fps)
    if frames != 1 and not 1 / 65535 <= value <= 65535:
        raise invalid(f"fps: {value:g} is not between 1/65535 and 65535, as an animated PNG has it")
    return value


def save(path: Path, frames: Any, fps: float = 8.0, context: Optional[Context] = None) -> None:
    """Writes uint8 [frames, height, width, 3] as a PNG (one frame) or an animated PNG, under a name that ends with .png or .apng,
    or has no suffix."""
    suffix = pathlib.PurePath(os.fsdecode(c_path(path))).suffix
    if suffix.lower() not in ("", ".png", ".apng"):
        raise invalid(f"path: {os.fspath(path)!r} ends with {suffix}; what is written is a PNG, named .png or .apng")
    context = of("context", Context, context) or Context(threads=1)
    given = Buffer.copy_of(context, frames, "frames", "uint8")
    call("imagine_picture_save", context, c_path(path), given, rate(fps, given.shape[0] if given.shape else 0), filename=path)


def load(path: Path, context: Optional[Context] = None) -> Array:
    """Frames of a PNG, an animated PNG or a folder of PNGs, by their names (10.png before 2.png), uint8 [frames, height, width, 3]."""
    need_numpy()
    context = of("context", Context, context) or Context(threads=1)
    made = Buffer()
    call("imagine_picture_load", made._out(), context, c_path(path), filename=path)
    return made.array


class Clip:
    """Frames, uint8 [frames, height, width, 3], at `fps` frames a second. As the last value of a notebook's cell, or given
    to IPython.display.display, it shows itself: a picture, or a clip that plays. `scale` enlarges what is shown; 0 makes
    small clips about 256 pixels wide."""

    def __init__(self, frames: Any, fps: float = 8.0, scale: int = 0) -> None:
        self.frames = as_array("frames", frames)
        import numpy
        if self.frames.dtype != numpy.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3 or not self.frames.size:
            raise invalid(f"frames: wanted are uint8 [frames, height, width, 3], not {self.frames.dtype} {self.frames.shape}")
        self.fps, self.scale = rate(fps, len(self.frames)), integer("scale", scale)

    def __len__(self) -> int:
        return len(self.frames)

    def __array__(self, *arguments: Any, **options: Any) -> Array:
        return self.frames.__array__(*arguments, **options)

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        return f"<imagine.Clip of {count} frame{'s' if count > 1 else ''}, {width}x{height}, {self.fps:g} fps>"

    def png(self) -> bytes:
        """The frames as the bytes of a PNG, an animated one when there are several."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "clip.png"
            save(path, self.frames, self.fps)
            return path.read_bytes()

    def save(self, path: Path) -> None:
        """Writes what png() gives into a file."""
        save(path, self.frames, self.fps)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Dict[str, Any]:
        data = base64.b64encode(self.png()).decode("ascii")
        _, height, width, _ = self.frames.shape
        scale = self.scale or max(1, round(256 / width))
        html = (f'<img src="data:image/png;base64,{data}" width="{width * scale}" height="{height * scale}" '
                f'style="image-rendering: {"pixelated" if scale > 1 else "auto"}" alt="{len(self)} frames">')
        return {"text/plain": repr(self), "text/html": html, "image/png": data}
