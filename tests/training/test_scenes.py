# SPDX-License-Identifier: MIT
"""The training data: scenes are the same each time, fit their picture and keep to the split."""

import copy
import sys
import unittest
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"
sys.path.insert(0, str(TRAIN))

try:
    import numpy as np
    import torch
    import data
    import motions
    import latents128
    import objects
    import render
    import scenes
    import split
    MISSING = "" if (data.shared_folder() / "pictures" / "manifest.jsonl").exists() else "the shared folder of pictures"
except ImportError as error:
    MISSING = f"Python's {error.name}"

if not MISSING:
    torch.set_num_threads(1)
    CATALOGUE = objects.Catalogue()
    STORE = objects.Store()


def stream(seed, **options):
    return scenes.Stream(seed, CATALOGUE, STORE, **options)


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Scenes(unittest.TestCase):
    def test_catalogue(self):
        self.assertEqual(len(CATALOGUE.core), 200)
        self.assertEqual(len(CATALOGUE.by_name), 200)
        self.assertGreater(len(CATALOGUE.others), 700)
        for concept in CATALOGUE.core:
            self.assertTrue(concept.japanese, concept.name)
            self.assertTrue(any(ord(c) > 0x3000 for n in concept.japanese for c in n) or concept.name == "UFO")
            self.assertTrue(set(concept.colours) <= set(objects.PAINT) | {"white", "black", "grey", "brown"}, concept.name)
            if concept.painted():
                self.assertTrue(set(concept.colours) <= set(objects.PAINT), concept.name)

    def test_same_each_time(self):
        for number in (0, 7, 123):
            first, again = (stream(5).scene(number) for _ in range(2))
            self.assertEqual(repr(first.items), repr(again.items))
            self.assertTrue(torch.equal(render.frames_of(first, STORE), render.frames_of(again, objects.Store())))
        self.assertNotEqual(repr(stream(5).scene(1).items), repr(stream(6).scene(1).items))

    def test_shapes_and_ranges(self):
        for frames in (1, *scenes.LENGTHS):
            made = [stream(9).scene(n, frames) for n in range(6)]
            x = render.batch(made, STORE)
            self.assertEqual(tuple(x.shape), (6, 3, frames, 128, 128))
            self.assertEqual(x.dtype, torch.float32)
            self.assertTrue(bool(torch.isfinite(x).all()))
            self.assertGreaterEqual(float(x.min()), -1)
            self.assertLessEqual(float(x.max()), 1)

    def test_objects_are_whole_and_apart(self):
        for number in range(150):
            scene = stream(11).scene(number)
            if scene.motion.kind not in ("zoom", "pan"):
                for path in scene.paths:
                    x0, y0, x1, y1 = path.box()
                    self.assertGreaterEqual(min(x0, y0), -0.01)
                    self.assertLessEqual(max(x1, y1), 128.01)
            self.assertTrue(scene.motion.kind == "orbit" or scenes.apart(scene))

    def test_steps(self):
        """Boxes and corners at rest are multiples of the step, with INSET of each box filled, small ones with a place of half of it; whatever
        moves stays whole but for corners, several are never next to each other without a gap, and layouts keep their shares."""
        for step in (8, 16, 32):
            layouts = []
            for number in range(150):
                frames = 1 if number % 2 else 17
                scene = stream(15, step=step).scene(number, frames)
                layouts += [scene.layout] if not scene.items[0].animated and scene.items[0].concept.core else []
                if scene.motion.kind == "orbit":
                    continue
                rest = -1 if scene.motion.kind in ("grow", "fall") else 0
                if scene.motion.kind in ("slide", "hop") and " " not in scene.motion.direction:
                    moved = max(abs(v[4] - v[0]) for v in ((scene.paths[0].x,) if scene.motion.kind == "hop" else
                                                           (scene.paths[0].x, scene.paths[0].y)))
                    self.assertIn(round(moved, 3), (8, 16), scene.motion)
                for path in scene.paths:
                    side = path.width[rest] / scenes.INSET
                    self.assertAlmostEqual(side, step * round(side / step), delta=0.01, msg=f"{number} {scene.motion}")
                    grid = step / 2 if scene.place and round(side) == step else step
                    for value in (path.x[rest] - side / 2, path.y[rest] - side / 2):
                        self.assertAlmostEqual(value, grid * round(value / grid), delta=0.01, msg=f"{number} {scene.motion}")
                    if scene.motion.kind not in ("zoom", "pan"):
                        box = path.box(turned=False)
                        self.assertTrue(-3.2 < min(box) and max(box) < 131.2, f"{number} {scene.motion} {box}")
                self.assertTrue(scenes.apart(scene))
                if frames == 1:
                    self.assert_gaps(scene.paths)
            for kind, share in scenes.TAUGHT_LAYOUTS.items():
                self.assertAlmostEqual(layouts.count(kind) / len(layouts), share, delta=0.13, msg=f"{step} {kind}")

    def assert_gaps(self, paths):
        """Of several objects at rest: 2 pixels to each other in some direction, 1 to the edge."""
        for k, a in enumerate(paths if len(paths) > 1 else ()):
            self.assertGreater(min(*a.box()[:2], *(128 - v for v in a.box()[2:])), 1)
            for b in paths[:k]:
                gaps = [abs(p[0] - q[0]) - (r[0] + s[0]) / 2 for p, q, r, s in ((a.x, b.x, a.width, b.width), (a.y, b.y, a.height, b.height))]
                self.assertGreater(max(gaps), 2)

    def test_motions_keep_their_shares(self):
        """In steps, what does not fit is drawn again with the same kind of motion; of one object all kinds go."""
        made = [stream(19, step=latents128.STEP).scene(number, 17) for number in range(500)]
        kinds = [s.motion.kind for s in made if s.layout == "one" and not s.items[0].animated]
        self.assertGreater(len(kinds), 200)
        for kind, weight in motions.TAUGHT.items():
            self.assertAlmostEqual(kinds.count(kind) / len(kinds), weight, delta=0.06, msg=kind)

    def test_what_is_drawn_is_where_it_should_be(self):
        """The difference from the ground alone has its middle at the object's place."""
        checked = 0
        for number in range(60):
            scene = stream(13).scene(number, 9)
            if scene.layout != "one" or scene.ground.kind != "plain" or scene.items[0].animated:
                continue
            frames, path = render.frames_of(scene, STORE), scene.paths[0]
            for k in (0, 8):
                if path.opacity[k] < 1:
                    continue
                cover = (frames[:, k] - frames[:, k, :1, :1]).abs().amax(0) > 0.2
                ys, xs = torch.nonzero(cover, as_tuple=True)
                self.assertAlmostEqual(float(xs.min() + xs.max() + 1) / 2, path.x[k], delta=0.2 * path.width[k] + 2)
                self.assertAlmostEqual(float(ys.min() + ys.max() + 1) / 2, path.y[k], delta=0.2 * path.height[k] + 2)
                checked += 1
        self.assertGreater(checked, 20)

    def test_where_objects_are(self):
        """What an object changes in a latent's frames lies where objects_of() has it, which counts by the root of its size."""
        kinds, sized = set(), 0
        made = [stream(21, step=32).scene(number, 9) for number in range(150)]
        made += [s for s in (stream(23).scene(number, 9) for number in range(400)) if s.motion.kind in motions.CAMERA]
        for number, scene in enumerate(made):
            shown, without = latents128.objects_of(scene), copy.deepcopy(scene)
            for path in without.paths:
                path.opacity[:] = 0
            self.assertEqual(float(latents128.objects_of(without).sum()), 0)
            if scene.motion.kind not in ("spin", "rock"):  # their corners turn out of their boxes
                changed = (render.frames_of(scene, STORE) - render.frames_of(without, STORE)).abs().amax(0) > 0.2
                cells = changed.view(9, 8, 16, 8, 16).any(4).any(2)
                seen = torch.cat([cells[:1], cells[1:].view(2, 4, 8, 8).any(1)])
                self.assertFalse(bool((seen & (shown == 0)).any()), f"{number} {scene.motion}")
                self.assertGreater(int(seen.sum()), 0)
                kinds.add(scene.motion.kind)
            if scene.motion.kind == "still" and scene.layout == "one" and not scene.items[0].animated:
                under = (scene.paths[0].width[0] / 16) ** 2
                self.assertAlmostEqual(float(shown[1].sum()), (16 * max(under, 4)) ** 0.5 * min(1, under / 4), delta=0.3)
                sized += 1
        self.assertLessEqual({"slide", "bounce", "zoom", "pan", "appear", "orbit", "still"}, kinds)
        self.assertGreater(sized, 0)

    def test_split(self):
        for number in range(150):
            self.assertFalse(split.held_combinations(stream(17).scene(number, 9)))
        seen = set()
        for number in range(60):
            found = split.held_combinations(stream(17, held=True).scene(number, 9))
            self.assertTrue(found)
            seen |= {kind for kind, _, _ in found}
        self.assertEqual(seen, {"style", "motion", "ground", "pair", "cutout"})
        names = [c.name for c in CATALOGUE.core]
        share = np.mean([split.is_held("pair", a, b) for a in names for b in names if a < b])
        self.assertAlmostEqual(share, split.SHARES["pair"], delta=0.01)

    def test_small_is_not_aliased(self):
        """A checked pattern drawn small is an even grey, not a pattern of its own."""
        board = np.indices((128, 128)).sum(0) // 2 % 2 * 255
        rgba = np.stack([board, board, board, np.full_like(board, 255)], 2).astype(np.uint8)
        levels = objects.pyramid(rgba)
        for level, side in enumerate(objects.LEVELS[2:], 2):
            inside = levels[level][:3, 2:-2, 2:-2].float() / 255
            self.assertLess(float(inside.std()), 0.12, side)
            self.assertAlmostEqual(float(inside.mean()), 0.5, delta=0.05)


if __name__ == "__main__":
    unittest.main()
