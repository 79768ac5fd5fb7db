#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes animations.tsv: each animated emoji with words for how it moves, read off its outline.

The outline's box and the middles of its upper and lower half are followed over the frames: what swings most names the
motion. Where the outline hardly changes, something inside it moves.
"""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

import data
import objects

LIMIT = 5.0  # percent of the picture's side that counts as moving


def outlines(path):
    """Opacities [n, 64, 64] of an animation's frames."""
    with Image.open(path) as image:
        frames = []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGBA").getchannel("A").resize((64, 64), Image.BOX), np.float32) / 255)
    return np.stack(frames)


def middle(weights, axis):
    """The centroid along an axis in percent of the side, one for each frame."""
    steps = np.arange(64, dtype=np.float32)
    profile = weights.sum(2 if axis == 0 else 1)
    return (profile * steps).sum(1) / np.maximum(profile.sum(1), 1e-3) / 0.64


def swing(values):
    return float(np.ptp(np.percentile(values, (5, 95))))


def strides(values):
    """How often it turns back."""
    smooth = np.convolve(values, np.ones(3) / 3, "valid")
    signs = np.sign(np.diff(smooth))
    signs = signs[signs != 0]
    return int((np.diff(signs) != 0).sum())


def motion_words(alpha, face):
    area = alpha.sum((1, 2))
    if area[0] < 0.25 * area.max():
        return "popping up"
    side = np.sqrt(area / area.max()) * 100
    x, y = middle(alpha, 1), middle(alpha, 0)
    top, low = middle(alpha[:, :32], 1), middle(alpha[:, 32:], 1)
    tilt = swing(top - low)
    found = {"moving from side to side": swing(x), "moving up and down": swing(y), "tilting from side to side": 0.6 * tilt,
             "growing and shrinking": 0.8 * swing(side)}
    words, most = max(found.items(), key=lambda item: item[1])
    if most < LIMIT:
        return "changing its expression" if face else "moving a little"
    if words == "moving from side to side" and strides(x) > 5:
        return "shaking"
    if words == "moving up and down" and strides(y) > 3:
        return "bouncing up and down"
    if words == "growing and shrinking":
        return "pulsing" if strides(side) > 3 else words
    return words


def main():
    shared = data.shared_folder()
    lines = ["# The animated emoji that training uses: file, caption, how it moves. Written by make_animations.py."]
    for r in json.loads((shared / "animations" / "manifest.json").read_text()):
        name = r["caption"].lower()
        if objects.UNNAMED.search(name) and not re.search(r"hand|index|fist|finger", name) or r["motion"] < 0.5:
            continue
        if name in ("aries", "taurus", "gemini", "cancer", "leo", "virgo", "libra", "scorpio", "sagittarius", "capricorn",
                    "aquarius", "pisces", "ophiuchus", "middle finger", "plus"):
            continue
        words = motion_words(outlines(shared / "animations" / r["file"]), "face" in name.split() or "cat" in name.split())
        lines.append(f"{r['file']}\t{r['caption']}\t{words}")
    (Path(__file__).parent / "animations.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
