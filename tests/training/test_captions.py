# SPDX-License-Identifier: MIT
"""Captions say what the scene shows: their words are read back and compared with it."""

import re
import sys
import unittest
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"
sys.path.insert(0, str(TRAIN))

try:
    import numpy as np
    import torch
    import data
    import grounds
    import objects
    import captions
    import japanese
    import scenes
    MISSING = "" if (data.shared_folder() / "pictures" / "manifest.jsonl").exists() else "the shared folder of pictures"
except ImportError as error:
    MISSING = f"Python's {error.name}"

if not MISSING:
    torch.set_num_threads(1)
    CATALOGUE = objects.Catalogue()
    STORE = objects.Store()

# Written down again, so that a wrong word in captions.py is seen.
VERBS = {"bounc": "bounce", "up and down": "bounce", "hopping": "hop", "spinning": "spin", "rotating": "spin", "turning": "spin",
         "rocking": "rock", "swinging": "rock", "wobbling": "rock", "growing": "grow", "getting bigger": "grow",
         "shrinking": "shrink", "getting smaller": "shrink", "shaking": "shake", "trembling": "shake", "falling": "fall",
         "dropping": "fall", "in a circle": "orbit", "circling": "orbit", "orbiting": "orbit", "appearing": "appear",
         "fading in": "appear", "disappearing": "disappear", "fading out": "disappear", "zoom": "zoom", "pan": "pan",
         "sliding": "slide", "gliding": "slide", "driving": "slide", "flying": "slide"}
STYLES = {"3D": "3D emoji", "flat": "flat emoji", "cartoon": "noto emoji", "shad": "color emoji", "game": "game art"}
SMALL, LARGE = r"\b(small|little|tiny)\b", r"\b(large|big|huge)\b"


def made(count, **options):
    stream = scenes.Stream(23, CATALOGUE, STORE, mixture={"core": 1.0}, **options)
    for number in range(count):
        yield stream.scene(number), np.random.default_rng((24, number))


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Captions(unittest.TestCase):
    def test_objects_and_counts(self):
        for scene, rng in made(200):
            text = captions.Writer(rng, scene).write().text.lower()
            for item in scene.items:
                c = item.concept
                self.assertTrue(any(n.lower() in text for n in (c.name, c.plural or c.name, *c.others)), (text, c.name))
            counted = re.search(r"\b(two|2|a pair of (?!scissors|headphones|sunglasses|cherries))\b", text)
            self.assertEqual(bool(counted), scene.layout == "same" and len(scene.items) == 2, text)
            self.assertEqual(bool(re.search(r"\b(three|3)\b", text)), scene.layout == "same" and len(scene.items) == 3, text)

    def test_sizes_styles_and_colours(self):
        said = set()
        for scene, rng in made(200):
            caption = captions.Writer(rng, scene).write()
            said |= caption.said
            text, sizes = caption.text, {i.size_word for i in scene.items}
            for pattern, word in ((SMALL, "small"), (LARGE, "large")):
                if re.search(pattern, text, re.I):
                    self.assertIn(word, sizes, text)
            for word, style in STYLES.items():
                if re.search(rf"\b{word}", text):
                    self.assertEqual(scene.styles(), {style}, text)
            for colour in grounds.PLAIN:
                g = scene.ground
                if re.search(rf"\b(on|of|with) (a )?(plain )?{colour}( background)", text) and g.kind == "plain":
                    self.assertEqual(g.name, colour, text)
            if "colour" in caption.said:
                self.assertTrue(any(i.shown_colour() and i.shown_colour() in text.lower() for i in scene.items), text)
        self.assertEqual(said, {"style", "colour", "size", "place", "ground", "motion", "direction", "speed"})

    def test_motions(self):
        for scene, rng in made(200):
            caption, m = captions.Writer(rng, scene).write(), scene.motion
            text = re.sub(r"background fading|falling snow|flying saucer|panda\w*", "", caption.text.lower())
            found = {kind for word, kind in VERBS.items() if re.search(rf"\b{word}", text)}
            self.assertLessEqual(found, {m.kind}, caption.text)
            if "clockwise" in text:
                self.assertEqual("counter" in text or "anti" in text, m.direction == "counterclockwise", text)
            if "direction" in caption.said and m.kind in ("slide", "hop", "pan"):
                for word in m.direction.split():
                    self.assertIn(word, text)
            if "speed" in caption.said:
                self.assertTrue(re.search(r"slowly|gently" if m.speed == "slow" else r"quickly|fast|rapidly", text), text)
            elif not m.speed:
                self.assertFalse(re.search(r"slowly|gently|quickly|fast\b|rapidly", text.replace("breakfast", "")), text)

    def test_places(self):
        for scene, rng in made(200):
            caption = captions.Writer(rng, scene).write()
            if "place" in caption.said:
                for word in scene.place.split():
                    self.assertRegex(caption.text, {"centre": "centre|middle"}.get(word, word))
            if scene.layout == "pair" and scene.relation in ("above", "below"):
                a, b = scene.paths
                self.assertEqual(a.y.mean() < b.y.mean(), scene.relation == "above")
            if scene.layout == "pair" and scene.relation in ("left of", "right of"):
                a, b = scene.paths
                self.assertEqual(a.x.mean() < b.x.mean(), scene.relation == "left of")

    def test_japanese(self):
        for scene, rng in made(200):
            text, said = japanese.write(rng, scene)
            for item in scene.items:
                self.assertTrue(any(n in text for n in item.concept.japanese), text)
            self.assertFalse(re.search("[a-z]{3}", text), text)
            if "direction" in said and scene.motion.kind in ("slide", "hop"):
                self.assertIn(japanese.WAY[scene.motion.direction], text)
            if "size" in said:
                self.assertTrue("小さな" in text or "大きな" in text)
            if "ground" in said and scene.ground.kind == "plain":
                self.assertIn("背景", text)

    def test_shares(self):
        stream = scenes.Stream(29, CATALOGUE, STORE)
        kinds = {"": 0, "ja": 0, "en": 0}
        for number in range(400):
            c = captions.caption(np.random.default_rng((30, number)), stream.scene(number, 9))
            kinds[c.language if c.text else ""] += 1
        self.assertAlmostEqual(kinds[""] / 400, captions.EMPTY, delta=0.04)
        self.assertTrue(0.08 < kinds["ja"] / 400 < 0.16, kinds)


if __name__ == "__main__":
    unittest.main()
