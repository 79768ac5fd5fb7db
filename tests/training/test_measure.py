# SPDX-License-Identifier: MIT
"""The measurement names what true scenes show, and does not name what they do not."""

import json
import sys
import types
import unittest
from pathlib import Path

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"
sys.path[:0] = [str(TINY), str(TINY / "train")]

try:
    import numpy as np
    import torch
    import data
    import grounds
    import look
    import make_prompts
    import measure
    import motions
    import objects
    import render
    import scenes
    import tracks
    MISSING = "" if (data.shared_folder() / "pictures" / "manifest.jsonl").exists() else "the shared folder of pictures"
except ImportError as error:
    MISSING = f"Python's {error.name}"

NAMES = ("apple", "dog", "car", "tree", "guitar", "star", "pumpkin", "fish", "house", "key")

if not MISSING:
    torch.set_num_threads(1)
    CATALOGUE = objects.Catalogue()
    STORE = objects.Store()
    SOME = types.SimpleNamespace(core=[CATALOGUE.by_name[n] for n in NAMES])


def frames_of(scene):
    x = render.frames_of(scene, STORE)
    return x.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()


def alone(name, motion, ground=("plain", "white"), frames=17, size=50, x=64, y=64):
    concept = CATALOGUE.by_name[name]
    item = scenes.Item(concept, concept.cutouts[0], concept.colours[0] if concept.painted() else None, size)
    path = motions.move(motions.Path(frames, x, y, size), motion, motions.seconds(frames))
    if motion.kind == "orbit":
        motions.orbit(path, motion, 64, 64, 28)
    return scenes.Scene(frames, grounds.Ground(*ground, seed=3), [item], "one", motion=motion, paths=[path])


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Measure(unittest.TestCase):
    def test_motions(self):
        asked = [("still", "", 0, 0)] + [("slide", d, 34, 0) for d in motions.KINDS["slide"][1]]
        asked += [("spin", "clockwise", 140, 0), ("spin", "counterclockwise", 140, 0), ("rock", "", 18, 0.9)]
        asked += [("bounce", "", 26, 1.05), ("hop", "left", 34, 0), ("hop", "right", 34, 0), ("shake", "", 5, 1.9)]
        asked += [("grow", "", 2.1, 0), ("shrink", "", 2.1, 0), ("fall", "", 44, 0), ("appear", "", 0, 0), ("disappear", "", 0, 0)]
        asked += [("orbit", "clockwise", 160, 0), ("orbit", "counterclockwise", 160, 0)]
        for kind, direction, amount, rate in asked:
            for name in ("dog", "guitar"):
                frames = frames_of(alone(name, motions.Motion(kind, direction, "", amount, rate, 40.0)))
                found = [look.pieces(f)[1] for f in frames]
                k = max(range(len(found)), key=lambda k: sum(p.area for p in found[k]))
                told = tracks.motion_of(frames, tracks.follow(found, k, found[k][0]))
                self.assertEqual(told, (kind, direction), name)

    def test_paths_that_shake(self):
        """What a model draws jumps and trembles on its way, and goes there all the same; what trembles in its place stands."""
        rng = np.random.default_rng(4)
        t = np.arange(17) / tracks.FPS
        k, zero = t / t[-1], np.zeros(17)
        jumps = np.repeat((0, 0.35, 0.7, 1), (4, 4, 5, 4))
        fall = np.clip(t / 1.1, 0, 1) ** 2
        cases = {("slide", "left"): (-50 * jumps, zero), ("slide", "down"): (zero, 44 * k), ("slide", "up right"): (30 * k, -30 * k),
                 ("hop", "right"): (40 * k, -14 * np.abs(np.sin(2 * np.pi * k))), ("fall", ""): (zero, 55 * fall),
                 ("bounce", ""): (zero, -20 * np.abs(np.sin(np.pi * 1.2 * t))), ("still", ""): (zero, zero)}
        for told, (x, y) in cases.items():
            for _ in range(20):
                at = [64 + v + rng.normal(0, 1.5, 17) for v in (x, y)]
                self.assertEqual(tracks.likeliest(t, *at, t[-1]), told)
            at[0][8], at[1][8] = 110, 20  # another piece, taken for it once
            self.assertEqual(tracks.likeliest(t, *at, t[-1]), told)

    def test_camera(self):
        for kind, direction, amount in (("pan", "left", 30), ("pan", "right", 30), ("zoom", "in", 1.5), ("zoom", "out", 1.5)):
            frames = frames_of(alone("dog", motions.Motion(kind, direction, "", amount), ("drawn", "meadow")))
            self.assertEqual(tracks.camera(frames, []), (kind, direction))
        frames = frames_of(alone("dog", motions.Motion("slide", "left", "", 34), ("drawn", "meadow")))
        found = [look.pieces(f)[1] for f in frames]
        self.assertIsNone(tracks.camera(frames, [tracks.follow(found, 0, found[0][0])]))

    def test_objects(self):
        gallery = look.Gallery(SOME, STORE)
        for name in NAMES:
            for ground in (("plain", "white"), ("plain", "dark blue"), ("gradient", "pink", "white", "right"), ("drawn", "snow")):
                frames = frames_of(alone(name, motions.Motion("slide", "right", "", 30), ground))
                things = measure.findings(gallery, frames, [look.pieces(f) for f in frames])
                self.assertEqual(things[0].names[0], name, ground)
                self.assertLess(things[0].distance, 0.2)

    def test_places_and_sizes(self):
        gallery = look.Gallery(SOME, STORE, sizes=(40,))
        still = motions.Motion()
        for place, x, y in (("left", 30, 64), ("right", 98, 64), ("top", 64, 30), ("centre", 64, 64), ("bottom right", 98, 98)):
            frames = frames_of(alone("car", still, frames=1, x=x, y=y))
            things = measure.findings(gallery, frames, [look.pieces(f) for f in frames])
            for other in scenes.PLACES:
                self.assertEqual(measure.place_of(things[0].track, other), other == place, (place, other))
        for word, (low, high) in scenes.SIZES.items():
            for size in (low, high):
                frames = frames_of(alone("car", still, frames=1, size=size))
                things = measure.findings(gallery, frames, [look.pieces(f) for f in frames])
                self.assertEqual(measure.size_of(things[0].track), word)

    def test_grounds(self):
        named = look.Grounds(seeds=4)
        for seed in range(40, 43):
            for kind, names in (("plain", grounds.PLAIN), ("drawn", grounds.DRAWN)):
                for name in names:
                    frame = grounds.paint(grounds.Ground(kind, name, seed=seed)) * 255
                    self.assertEqual(named.name(frame).name, name)

    def test_held_out_prompts(self):
        """The committed prompts are what their script writes."""
        stream = scenes.Stream(make_prompts.SEED, CATALOGUE, STORE, make_prompts.FRAMES, True, {"core": 1.0})
        lines = make_prompts.OUT.read_text().splitlines()
        self.assertEqual(len(lines), make_prompts.COUNT)
        for number in range(0, make_prompts.COUNT, 25):
            self.assertEqual(json.loads(lines[number]), make_prompts.record(number, stream.scene(number)))
            self.assertTrue(json.loads(lines[number])["held"])

    def test_prompts_of_pictures(self):
        stream = scenes.Stream(make_prompts.SEED, CATALOGUE, STORE, 1, True, {"core": 1.0})
        lines = make_prompts.OUT.with_name("pictures.jsonl").read_text().splitlines()
        self.assertEqual(len(lines), make_prompts.PICTURES)
        for number in range(0, make_prompts.PICTURES, 8):
            line = json.loads(lines[number])
            made = make_prompts.record(number, stream.scene(number))
            self.assertEqual(line, {name: made[name] for name in ("number", "prompt", "japanese")})

    def test_no_camera_without_ground(self):
        """An object over nearly all of two pictures that flicker: nothing tells that the camera moves."""
        rng = np.random.default_rng(0)
        frames = (np.linspace(60, 200, 128)[None, :, None, None] + rng.normal(0, 3, (2, 128, 128, 3))).clip(0, 255).astype(np.uint8)
        box = slice(10, 118), slice(10, 118)
        mask = np.zeros((128, 128), bool)
        mask[box] = True
        track = tracks.Track(2, 0, look.Piece(mask, box))
        track.pieces[1] = track.pieces[0]
        self.assertIsNone(tracks.camera(frames, [track]))


if __name__ == "__main__":
    unittest.main()
