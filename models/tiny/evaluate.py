#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures, without a person, whether the shipped model draws what a prompt asks for.

    models/tiny/evaluate.py [--model models/tiny] [--count 500] [--out table.md]
    models/tiny/evaluate.py --beside PACK STEPS GUIDANCE
    models/tiny/evaluate.py --truth
    models/tiny/evaluate.py --small --model PACK

Prompts are the 500 held-out ones of heldout.jsonl: one to three objects, count, size, place, relation, ground, motion and
direction. libimagine itself makes the clips; look.py and tracks.py say how frames are read, measure.py what is asked of them,
and every question is asked only where the prompt names its answer. "nearest" is how far the likeliest object is from the nearest
of all training pictures of the core, beside the same for the true scenes, which are made of them.

The same is done with the true scenes and with what the VAE makes of them: the first says how far the measurement itself can be
trusted, the second what the VAE costs. Every share is given with its 95% Wilson interval. --beside adds a column, of another pack,
or of this one with other options; --truth measures the true scenes alone.

--small measures a model of 64x64, the first stage of the training. Its prompts are captions of scenes of one object, drawn with a
seed that training never used, and three things are read off the frames:

- background: the median colour of the frames' rim, named by the nearest of the colours that captions speak of;
- motion: from the foreground's centroid and area over time (`motion_of` has the rules);
- object: the frame with the largest foreground is cropped to it, reduced to 20x20 pixels, and described by colour, shape
  and edge directions (`describe`); its nearest neighbours among all objects' pictures, described in the same way, name it.

Below the table stands what made it: the options, and the commit. Needs the training set-up (see train/README.md), libimagine.so in
build/ and the shared data folder.
"""

import argparse
import json
import math
import multiprocessing
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "train"), str(HERE.parents[1] / "bindings/python")]

import data  # noqa: E402
import imagine  # noqa: E402

SEED = 20261  # of the scenes of --small; training uses 1 and 2, and its measurements 12345
GRID = 20  # pixels along a side of a described crop
REPORT = 50  # prompts between two words of progress
FOREGROUND = 26  # a pixel this far (of 255, largest channel) from the ground belongs to the object


def ground_of(frames):
    """The median colour of the rim of frames [t, h, w, 3]."""
    rim = np.concatenate([frames[:, :2].reshape(-1, 3), frames[:, -2:].reshape(-1, 3),
                          frames[:, :, :2].reshape(-1, 3), frames[:, :, -2:].reshape(-1, 3)])
    return np.median(rim, 0)


def background_of(ground):
    names = list(data.BACKGROUNDS)
    return names[int(np.argmin([np.abs(ground - data.BACKGROUNDS[n]).sum() for n in names]))]


def masks(frames, ground):
    return np.abs(frames.astype(np.float32) - ground).max(-1) > FOREGROUND


def motion_of(mask):
    """One of data.MOTIONS from masks [t, h, w]: growth first, then a way to the side, then up and down again."""
    areas = mask.sum((1, 2)).astype(float)
    if areas.min() < 12:
        return "nothing"
    y = (mask * np.arange(mask.shape[1])[:, None]).sum((1, 2)) / areas
    x = (mask * np.arange(mask.shape[2])).sum((1, 2)) / areas
    if math.sqrt(areas[-2:].mean() / areas[:2].mean()) > 1.35:
        return "growing"
    if abs(x[-1] - x[0]) > 10:
        return "right" if x[-1] > x[0] else "left"
    middle = len(y) // 2
    if min(y[0], y[-1]) - y[middle] > 6:
        return "bouncing"
    return "still"


def describe(frame, mask, ground):
    """A vector of the object in one frame [h, w, 3]: colour less ground, shape, and strengths of edge directions."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) < 4 or len(columns) < 4:
        return None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    colour = (frame[box].astype(np.float32) / 255) * mask[box][..., None]
    side = max(colour.shape[:2])
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - colour.shape[0]) // 2, (side - colour.shape[1]) // 2
    inside = square[top:top + colour.shape[0], left:left + colour.shape[1]]
    inside[..., :3], inside[..., 3] = colour, mask[box]
    small = F.interpolate(torch.from_numpy(square).permute(2, 0, 1)[None], (GRID, GRID), mode="area")[0].numpy()
    parts = [small[:3] - 0.5 * small[3], 0.7 * small[3:], edges(small[:3].mean(0))]
    return np.concatenate([p.ravel() / math.sqrt(p.size) for p in parts])


def edges(grey):
    """Strengths of 8 edge directions in 5x5 cells."""
    dy, dx = np.gradient(grey)
    strength, angle = np.hypot(dx, dy), (np.arctan2(dy, dx) / (2 * np.pi) * 8).astype(int) % 8
    cells = np.zeros((8, 5, 5), np.float32)
    y, x = np.mgrid[0:GRID, 0:GRID] * 5 // GRID
    np.add.at(cells, (angle, y, x), strength)
    return 0.35 * np.sqrt(cells)


class Gallery:
    """Descriptions of every object's pictures, as they stand and mirrored, on each ground."""

    def __init__(self, objects):
        self.names, vectors = [], []
        for name, _, members in objects.entries:
            for picture, _ in members:
                for width in (46, -46, 30):
                    place = torch.tensor([[[32.0, 32.0, width, abs(width)]]])
                    for rgb in data.BACKGROUNDS.values():
                        x = data.render(objects.pictures[[picture]], place, torch.tensor([rgb]) / 255.0)
                        vector = described(bytes_of(x)[0])
                        if vector is not None:
                            self.names.append(name)
                            vectors.append(vector)
        self.vectors = np.stack(vectors)

    def nearest(self, vector, count=5):
        """The `count` nearest names, best first, each once."""
        order = np.argsort(((self.vectors - vector) ** 2).sum(1))
        return list(dict.fromkeys(self.names[i] for i in order))[:count]


def described(frames):
    ground = ground_of(frames)
    mask = masks(frames, ground)
    largest = int(mask.sum((1, 2)).argmax())
    return describe(frames[largest], mask[largest], ground)


def bytes_of(x):
    """[n, 3, t, h, w] in -1..1 to u8 [n, t, h, w, 3]."""
    return x.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).numpy()


def judge(gallery, frames, scene):
    """What is right about a clip: a dict of name to 0 or 1."""
    ground = ground_of(frames)
    mask = masks(frames, ground)
    vector = described(frames)
    found = gallery.nearest(vector) if vector is not None else []
    return {"object, first guess": found[:1] == [scene.name], "object, among five": scene.name in found,
            "background": background_of(ground) == scene.background, "motion": motion_of(mask) == scene.motion}


def wilson(hits, count):
    """The 95% interval of a share."""
    z, p = 1.96, hits / count
    middle, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def table(columns, count):
    """Markdown: a row for each question, a column for each source of clips."""
    lines = ["| of %d | %s |" % (count, " | ".join(columns)), "|---" * (len(columns) + 1) + "|"]
    for question in next(iter(columns.values()))[0]:
        cells = []
        for judged in columns.values():
            hits = sum(int(j[question]) for j in judged)
            low, high = wilson(hits, len(judged))
            cells.append(f"{hits / len(judged):.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(judged):
    """{question: (hits, count)} of what `measure.Judge.clip` answered, and the distances."""
    answers = {}
    for one in judged:
        for question, right in one.items():
            answers.setdefault(question, []).extend(right if isinstance(right, list) else [right])
    return answers


def held_table(columns):
    """Markdown: a row for each question with how often it was asked."""
    answers = {name: shares(judged) for name, judged in columns.items()}
    lines = ["| asked | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    questions = next(iter(answers.values()))
    for question in sorted(questions, key=list(questions).index):
        cells = []
        for found in answers.values():
            values = np.array(found[question], float)
            if question == "nearest":
                cells.append("{:.3f} ({:.3f} to {:.3f})".format(*np.percentile(values, (50, 5, 95))))
            else:
                low, high = wilson(values.sum(), len(values))
                cells.append(f"{values.mean():.1%} ({low:.1%} to {high:.1%})")
        label = "distance to the nearest picture" if question == "nearest" else f"{question}, {len(questions[question])}"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def at_128(frames):
    """u8 frames [t, h, w, 3] at the size that is measured."""
    if frames.shape[1:3] == (128, 128):
        return frames
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (128, 128), mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


class Source:
    """A pack, by the options that it draws with."""

    def __init__(self, pack, steps=0, guidance=-1.0, threads=0):
        self.model = imagine.open(pack, imagine.Context(threads=threads))
        self.options = {"steps": int(steps), "guidance": float(guidance)}
        self.name = f"{Path(pack).resolve().name}, {steps} steps, guidance {guidance}"

    def draw(self, prompt, seed, **options):
        return np.asarray(self.model.generate(prompt, seed=seed, **self.options, **options))

    def through(self, frames):
        """What the VAE makes of frames."""
        return np.asarray(self.model.decode(self.model.encode(np.ascontiguousarray(frames))))


class Held:
    """Judges what is drawn for the held-out prompts."""

    def __init__(self, args):
        import make_prompts
        import measure
        import render

        torch.set_num_threads(1)
        self.frames, self.render = make_prompts.FRAMES, render
        self.stream, self.language = make_prompts.stream(), "japanese" if args.japanese else "prompt"
        self.judge = measure.Judge(self.stream.catalogue, self.stream.store)
        self.shipped = None if args.truth else Source(args.model, args.steps, args.guidance, threads=1)
        beside = [] if args.truth else [Source(*one, threads=1) for one in args.beside]
        self.sources = {"generated": self.shipped} if self.shipped else {}
        self.sources |= {source.name: source for source in beside}

    def judged(self, record):
        """{column: answers}."""
        real = bytes_of(self.render.batch([self.stream.scene(record["number"])], self.stream.store))[0]
        made = {"true scenes": real}
        if self.shipped:
            made["through the VAE"] = self.shipped.through(real)
        for name, source in self.sources.items():
            made[name] = source.draw(record[self.language], record["number"], frames=self.frames)
        return {name: self.judge.clip(at_128(frames), record["truth"], record["said"]) for name, frames in made.items()}


def begin(args):
    """In each process, before the first prompt."""
    global HELD
    HELD = Held(args)


def judged(record):
    return HELD.judged(record)


def counted(items, count):
    """The items, with a word of progress now and then."""
    for i, item in enumerate(items, 1):
        yield item
        if i % REPORT == 0 or i == count:
            print(f"{i} of {count} prompts", file=sys.stderr, flush=True)


def held_out(args):
    """The table of the held-out prompts."""
    records = [json.loads(line) for line in (HERE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()][:args.count]
    columns = {}
    imagine.version()  # without the library this fails once; the pool would start processes for ever
    with multiprocessing.Pool(args.jobs, begin, [args]) as pool:
        for answers in counted(pool.imap(judged, records), len(records)):
            for name, answer in answers.items():
                columns.setdefault(name, []).append(answer)
    return held_table(columns)


def one_object(args):
    """The table of a model of 64x64."""
    objects = data.Objects()
    gallery, source = Gallery(objects), Source(args.model, args.steps, args.guidance)
    rng = np.random.default_rng(SEED)
    columns = {"real scenes": [], "through the VAE": [], "generated": []}
    for i in counted(range(args.count), args.count):
        scene = data.Scene(rng, objects)
        prompt = scene.caption(rng)
        real = bytes_of(data.render_scenes(objects, [scene]))[0]
        made = {"real scenes": real, "through the VAE": source.through(real), "generated": source.draw(prompt, i)}
        for name, frames in made.items():
            columns[name].append(judge(gallery, frames, scene))
    return table(columns, args.count)


def made_by():
    """The command and the commit that a table was made by."""
    def git(*words):
        return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"`{shlex.join(['models/tiny/evaluate.py', *sys.argv[1:]])}`, commit {git('rev-parse', '--short', 'HEAD')}{changed}."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE), help="the pack (default: the shipped one)")
    parser.add_argument("--count", type=int, default=500, help="prompts (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="sampling steps (default: the pack's)")
    parser.add_argument("--guidance", type=float, default=-1.0, help="scale of guidance (default: the pack's)")
    parser.add_argument("--beside", nargs=3, action="append", default=[], metavar=("PACK", "STEPS", "GUIDANCE"),
                        help="another column; may be given several times")
    parser.add_argument("--japanese", action="store_true", help="the prompts in Japanese")
    parser.add_argument("--truth", action="store_true", help="the true scenes alone, without a model")
    parser.add_argument("--small", action="store_true", help="a model of 64x64, with captions of one object")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes, but with --small (default: one a core)")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if args.small and (args.beside or args.japanese or args.truth):
        parser.error("--small goes with --model, --count, --steps, --guidance and --out only")
    torch.set_num_threads(1)
    text = (one_object if args.small else held_out)(args) + f"\n\n{made_by()}"
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
