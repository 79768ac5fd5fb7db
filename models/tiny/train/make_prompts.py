#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes ../heldout.jsonl: prompts of scenes that training never sees, each with its truth.

A line has the prompt, the same in Japanese, what the prompt names, the held-out combinations in it, and the scene as
`stream().scene(number)` gives it: its objects with colour, style and size, and so on. ../evaluate.py draws them from here.
"""

import json
from pathlib import Path

import numpy as np

import captions
import japanese
import scenes
import split

SEED, FRAMES, COUNT = 20268, 17, 500
OUT = Path(__file__).resolve().parents[1] / "heldout.jsonl"
ALWAYS = ("size", "place", "ground", "motion")


def stream(**options):
    return scenes.Stream(SEED, frames=FRAMES, held=True, mixture={"core": 1.0}, **options)


def truth(scene):
    m, g = scene.motion, scene.ground
    return {"objects": [[i.concept.name, i.shown_colour(), i.cutout.style, i.size_word] for i in scene.items],
            "layout": scene.layout, "relation": scene.relation, "place": scene.place, "movers": scene.movers,
            "ground": [g.kind, g.name, g.second, g.direction], "motion": [m.kind, m.direction, m.speed]}


def record(number, scene):
    rng = np.random.default_rng((SEED, number, 1))
    caption = captions.Writer(rng, scene, ("short", "sentence", "full")[rng.integers(3)], ALWAYS).write()
    return {"number": number, "prompt": caption.text, "japanese": japanese.write(rng, scene, ALWAYS)[0], "said": sorted(caption.said),
            "held": [list(c) for c in split.held_combinations(scene)], "truth": truth(scene)}


def main():
    made = stream()
    lines = [json.dumps(record(n, made.scene(n)), ensure_ascii=False, separators=(",", ":")) for n in range(COUNT)]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
