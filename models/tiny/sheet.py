#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the pictures of the README and of the model card with libimagine itself, seed 0 for every prompt.

    models/tiny/sheet.py [--model models/tiny] [--japanese] [--out docs/pictures]
    models/tiny/sheet.py --vae
    models/tiny/sheet.py --list

The prompts are the first 64 of pictures.jsonl, as single pictures (tiny-pictures.png), and the first 16 of heldout.jsonl, as clips:
four frames of each in a row, first and last among them (tiny-frames.png), and all 16 moving side by side, every second frame
(tiny-clips.png); none are left out. For the top of the README there are CHOSEN prompts, too (chosen.png). Files that move begin with
their last frame, for where only one is seen: what grew, fell or appeared is there. --list prints the prompts, for the card. --vae
draws instead the true scenes of the first 16 pictures, a row of them above a row of what the VAE makes of them (tiny-vae.png).

A file that would be larger than 700 KB has fewer levels of each colour, and then smaller pictures; what it came to is printed.
Needs numpy and libimagine.so in build/, --vae also the training set-up (see train/README.md).
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bindings/python"))

import imagine  # noqa: E402

PICTURES, CLIPS = ("pictures.jsonl", 64), ("heldout.jsonl", 16)
# What this model does well; the other sheets show what it makes of prompts as they come.
CHOSEN = ("a fox growing on a purple background", "a lion in the bottom left corner",
          "two aliens appearing on a green background", "a slice of watermelon on the beach", "a lemon falling in the snow",
          "a castle on a yellow background", "a robot on a pink background", "a frog moving up on a pink background")
MOST = 700_000  # bytes of a file
BITS = (8, 7, 6, 5)  # of each colour, while the file is too large


def prompts(which, japanese=False):
    name, count = which
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["japanese" if japanese else "prompt"] for line in lines]


def grid(clips, columns):
    """Clips [n][t, h, w, 3] side by side: [t, rows * h, columns * w, 3]."""
    rows = [np.concatenate(clips[i:i + columns], 2) for i in range(0, len(clips), columns)]
    return np.ascontiguousarray(np.concatenate(rows, 1))


def weights(before, after):
    """[after, before]: means of neighbours, by a triangle as wide as the reduction."""
    scale = max(1.0, before / after)
    centres = (np.arange(after)[:, None] + 0.5) * before / after - 0.5
    near = np.maximum(0, 1 - np.abs(np.arange(before) - centres) / scale)
    return near / near.sum(1, keepdims=True)


def resized(frames, side):
    """Frames [t, h, w, 3] as side x side, small ones with each pixel as a square of pixels."""
    height, width = frames.shape[1:3]
    if side % height == 0 and side % width == 0:
        return frames.repeat(side // height, 1).repeat(side // width, 2)
    x = np.einsum("yh,thwc,xw->tyxc", weights(height, side), frames.astype(np.float64), weights(width, side), optimize=True)
    return x.round().clip(0, 255).astype(np.uint8)


def levels(frames, bits):
    """With 2**bits levels of each colour, black and white among them."""
    steps = 2**bits - 1
    return ((frames.astype(np.uint16) * steps + 127) // 255 * 255 // steps).astype(np.uint8)


def save(path, clips, columns, sides, **options):
    """Clips side by side, in the first size and number of levels that MOST allows; else in the last."""
    for side in sides:
        sheet = grid([resized(c, side) for c in clips], columns)
        for bits in BITS:
            imagine.save(str(path), levels(sheet, bits), **options)
            if path.stat().st_size <= MOST:
                break
        if path.stat().st_size <= MOST:
            break
    print(f"{path}: {side}x{side} each, {bits} bits a colour, {len(sheet)} frame(s), {path.stat().st_size / 1000:.0f} KB")


def made(model, texts, **options):
    return [np.asarray(model.generate(text, seed=0, **options)) for text in texts]


def moving(clip):
    """Every second frame of a clip, the last one first."""
    return np.roll(clip[::2], 1, 0)


def some(frames, count=4):
    """So many frames, the first and the last among them, as clips of one."""
    return [frames[[k]] for k in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def rows_of_the_vae(model, columns=8, count=16):
    """True scenes, and what the VAE makes of them, row by row."""
    sys.path.insert(0, str(HERE / "train"))
    import make_prompts
    import render

    stream = make_prompts.stream(frames=1)
    scenes = render.batch([stream.scene(n) for n in range(count)], stream.store)
    scenes = np.ascontiguousarray(scenes.add(1).mul(127.5).round().byte().permute(0, 2, 3, 4, 1).numpy())
    back = [np.asarray(model.decode(model.encode(scene))) for scene in scenes]
    return [one for i in range(0, count, columns) for one in [*scenes[i:i + columns], *back[i:i + columns]]]


def listed():
    for title, which in ("Pictures, row by row:", PICTURES), ("Clips, row by row:", CLIPS):
        print(f"{title}\n")
        for number, text in enumerate(prompts(which), 1):
            print(f"{number}. {text}")
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE), help="the pack (default: the shipped one)")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs/pictures", help="folder (default: docs/pictures)")
    parser.add_argument("--japanese", action="store_true", help="with the prompts in Japanese")
    parser.add_argument("--vae", action="store_true", help="draw scenes and what the VAE makes of them, and nothing else")
    parser.add_argument("--list", action="store_true", help="print the prompts and draw nothing")
    args = parser.parse_args()
    if args.list:
        return listed()
    model = imagine.open(args.model)
    if args.vae:
        return save(args.out / "tiny-vae.png", rows_of_the_vae(model), 8, (128, 96))
    save(args.out / "tiny-pictures.png", made(model, prompts(PICTURES, args.japanese), frames=1), 8, (128, 96))
    chosen = made(model, CHOSEN)
    save(args.out / "chosen.png", [moving(c) for c in chosen], 4, (128, 96), fps=model.info["frames_per_second"] / 2)
    clips = made(model, prompts(CLIPS, args.japanese))
    save(args.out / "tiny-frames.png", [one for c in clips for one in some(c)], 8, (128, 96))
    save(args.out / "tiny-clips.png", [moving(c) for c in clips], 4, (96, 80, 64), fps=model.info["frames_per_second"] / 2)


if __name__ == "__main__":
    main()
