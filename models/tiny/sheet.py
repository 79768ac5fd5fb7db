#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the pictures of the README and of the model card with libimagine itself: fixed prompts, seed 0 for all, none left out.

    models/tiny/sheet.py [--model models/tiny] [--clips CLIPS.png] [--pictures PICTURES.png]

`--clips` is an animation of 16 prompts side by side, `--pictures` a sheet of 64 prompts as single pictures. Needs numpy and
libimagine.so in build/.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bindings/python"))

import imagine  # noqa: E402

CLIPS = ["a red apple bouncing", "a dog on a blue background", "a yellow car moving to the right", "a panda growing",
         "a cat on a pink background", "a house on a green background", "a blue balloon bouncing", "a star growing",
         "a green fish moving to the left", "a tree on a yellow background", "a robot bouncing", "a pink heart growing",
         "an airplane moving to the right on a blue background", "a banana bouncing", "a frog on a pink background",
         "a red flower growing on a green background"]
NOUNS = ("apple banana strawberry pear pineapple mushroom hamburger doughnut dog cat cow pig rabbit fox panda frog "
         "elephant horse duck bird owl penguin fish whale octopus turtle butterfly bee car truck train airplane "
         "helicopter rocket boat house tree flower sunflower cactus sun moon star cloud rainbow snowman ball "
         "basketball balloon heart crown key bell book umbrella guitar clock robot ghost pizza soccer_ball "
         "teddy_bear light_bulb bunch_of_grapes").split()
GROUNDS = ("", " on a blue background", " on a green background", " on a yellow background", " on a pink background")


def larger(frames, factor=2):
    """Each pixel as a square of pixels."""
    return frames.repeat(factor, 1).repeat(factor, 2)


def grid(clips, columns):
    """Clips [n][t, h, w, 3] side by side: [t, rows * h, columns * w, 3]."""
    rows = [np.concatenate(clips[i:i + columns], 2) for i in range(0, len(clips), columns)]
    return np.ascontiguousarray(np.concatenate(rows, 1))


def made(model, prompts, **options):
    return [larger(np.asarray(model.generate(p, seed=0, **options))) for p in prompts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE))
    parser.add_argument("--clips", default=str(HERE.parents[1] / "docs/pictures/tiny-clips.png"))
    parser.add_argument("--pictures", default=str(HERE.parents[1] / "docs/pictures/tiny-pictures.png"))
    args = parser.parse_args()
    model = imagine.open(args.model)
    imagine.save(args.clips, grid(made(model, CLIPS), 4), fps=8)
    nouns = [n.replace("_", " ") for n in NOUNS]
    prompts = [f"{'an' if n[0] in 'aeiou' else 'a'} {n}{GROUNDS[i % len(GROUNDS)]}" for i, n in enumerate(nouns)]
    imagine.save(args.pictures, grid(made(model, prompts, frames=1), 16))


if __name__ == "__main__":
    main()
