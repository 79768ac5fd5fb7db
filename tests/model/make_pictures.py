#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/model/pictures: small PNGs of every pixel format and animated ones with every way of disposing and
blending, each with NAME.expected.png, its frames laid over white and below each other as plain RGB (Pillow's reading)."""
import pathlib

import numpy
from PIL import Image

FOLDER = pathlib.Path(__file__).parent / "pictures"
random = numpy.random.default_rng(7)


def over_white(frame):
    frame = frame.convert("RGBA")
    pixels = numpy.asarray(frame).astype(int)
    alpha = pixels[..., 3:]
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype("uint8")


def expect(name):
    """Reads NAME.png back and writes what its frames look like."""
    picture = Image.open(FOLDER / f"{name}.png")
    frames = []
    for index in range(getattr(picture, "n_frames", 1)):
        picture.seek(index)
        frames.append(over_white(picture))
    Image.fromarray(numpy.concatenate(frames)).save(FOLDER / f"{name}.expected.png")


def still(name, mode, shape, **options):
    pixels = random.integers(0, 256, shape).astype("uint8")
    image = Image.fromarray(pixels) if mode in ("RGB", "RGBA", "L", "LA") else Image.fromarray(pixels).convert(mode)
    image.save(FOLDER / f"{name}.png", **options)
    expect(name)


def animated(name, disposal, blend):
    frames = []
    for step in range(4):
        pixels = numpy.zeros((12, 17, 4), "uint8")
        pixels[2 + step:7 + step, 3 * step:3 * step + 6] = random.integers(0, 256, (5, min(6, 17 - 3 * step), 4))
        # Pillow's "over" is not the specification's where both are half transparent: all or nothing here.
        pixels[..., 3] = numpy.where(pixels[..., 3] > 90, 255, 0)
        frames.append(Image.fromarray(pixels))
    frames[0].save(FOLDER / f"{name}.png", save_all=True, append_images=frames[1:], duration=100, disposal=disposal, blend=blend)
    expect(name)


def main():
    FOLDER.mkdir(exist_ok=True)
    still("rgb", "RGB", (7, 5, 3))
    still("rgba", "RGBA", (5, 9, 4))
    still("gray", "L", (6, 3))
    still("gray_alpha", "LA", (4, 4, 2))
    still("palette", "P", (8, 8, 3))
    still("palette_clear", "P", (8, 8, 3), transparency=3)
    still("one_bit", "1", (9, 11))
    for disposal in range(3):
        for blend in range(2):
            animated(f"animated_{disposal}{blend}", disposal, blend)


if __name__ == "__main__":
    main()
