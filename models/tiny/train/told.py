#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Which objects can be told in what a pack draws, of scenes like the training's, by layout, size, ground and style.

    models/tiny/train/told.py PACK [--step 32] [--frames 1] [--steps 25] [--guidance 3] [--count 150]

`../evaluate.py` asks as much of held-out prompts, all in one; here one sees what is learnt and what is not. Objects are named as there,
in the true scene, in what the VAE leaves of it, and in what libimagine makes of its caption.
"""

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2] / "bindings/python")]

import captions  # noqa: E402
import evaluate  # noqa: E402
import imagine  # noqa: E402
import latents128  # noqa: E402
import look  # noqa: E402
import measure  # noqa: E402
import render  # noqa: E402
import scenes  # noqa: E402


def kinds(scene):
    """The rows of the table that a scene counts in."""
    size = f", {scene.items[0].size_word or 'usual'}" if scene.layout == "one" else ""
    return "all", f"{scene.layout}{size}", f"ground {scene.ground.kind}", scene.items[0].cutout.style


class Teller:
    def __init__(self, args):
        torch.set_num_threads(1)
        self.args = args
        self.stream = scenes.Stream(args.seed, step=args.step)
        self.judge = measure.Judge(self.stream.catalogue, self.stream.store)
        self.source = evaluate.Source(args.pack, args.steps, args.guidance, threads=1)

    def told(self, number):
        """[(row, column, first guess, among five)] of a scene's objects, nothing of one without a caption or outside the core."""
        scene = self.stream.scene(number, 1)
        caption = captions.caption(np.random.default_rng((self.args.seed, number)), scene)
        if not caption.text or not all(item.concept.core for item in scene.items):
            return []
        real = evaluate.bytes_of(render.batch([scene], self.stream.store))[0]
        truth = dict(layout=scene.layout, objects=[[item.concept.name] for item in scene.items])
        found = []
        for column, frames in (("true", real), ("VAE", self.source.through(real)),
                               ("drawn", self.source.draw(caption.text, number, frames=self.args.frames))):
            palette = self.judge.grounds.palette(self.judge.grounds.name(frames[0]))
            things = measure.findings(self.judge.gallery, frames, [look.pieces(f, palette) for f in frames])
            right = measure.objects_right(things, truth)
            found += [(row, column, *pair) for pair in zip(*right.values()) for row in kinds(scene)]
        return found


def begin(args):
    global TELLER
    TELLER = Teller(args)


def told(number):
    return TELLER.told(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack")
    parser.add_argument("--step", type=int, default=latents128.STEP, help="of the scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="of the scenes (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=1, help="to draw (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="of sampling (default: the pack's)")
    parser.add_argument("--guidance", type=float, default=-1.0, help="default: the pack's")
    parser.add_argument("--count", type=int, default=150, help="scenes (default: %(default)s)")
    args = parser.parse_args()
    imagine.version()  # fails here where there is no library
    with multiprocessing.Pool(len(os.sched_getaffinity(0)), begin, [args]) as pool:
        found = [one for some in pool.imap(told, range(args.count)) for one in some]
    columns = list(dict.fromkeys(column for _, column, *_ in found))
    print(f"| first guess, among five | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for row in sorted({row for row, *_ in found}):
        shares = {c: np.array([right for r, column, *right in found if (r, column) == (row, c)]) for c in columns}
        print(f"| {row}, {len(shares[columns[0]])} | {' | '.join('{:.0%}, {:.0%}'.format(*v.mean(0)) for v in shares.values())} |")


if __name__ == "__main__":
    main()
