#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes ../heldout.jsonl: prompts of scenes that training never sees, each with its truth; and ../pictures.jsonl, of pictures.

A line has the prompt, the same in Japanese, what the prompt names, the held-out combinations in it, and the scene as
`stream().scene(number)` gives it: its objects with colour, style and size, and so on. ../evaluate.py draws them from here.
Those of pictures, of `stream(frames=1)`, have the prompts alone, for ../sheet.py.
"""

import json
from pathlib import Path

import numpy as np

import captions
import japanese
import scenes
import split

SEED, FRAMES, COUNT, PICTURES = 20268, 17, 500, 64
OUT = Path(__file__).resolve().parents[1] / "heldout.jsonl"
ALWAYS = ("size", "place", "ground", "motion")


def stream(frames=FRAMES, **options):
    return scenes.Stream(SEED, frames=frames, held=True, mixture={"core": 1.0}, **options)


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


def write(path, records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in records))


def main():
    made = stream()
    write(OUT, [record(n, made.scene(n)) for n in range(COUNT)])
    made = stream(frames=1)
    records = [record(n, made.scene(n)) for n in range(PICTURES)]
    write(OUT.with_name("pictures.jsonl"), [{k: r[k] for k in ("number", "prompt", "japanese")} for r in records])


if __name__ == "__main__":
    main()
