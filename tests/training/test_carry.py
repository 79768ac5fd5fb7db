# SPDX-License-Identifier: MIT
"""What training takes to another machine comes in parts, and draws the same scenes there."""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"
sys.path.insert(0, str(TRAIN))

try:
    import torch

    import carry
    import data
    import objects
    import render
    import scenes
    MISSING = "" if (data.shared_folder() / "pictures").is_dir() else "the shared data folder"
except ImportError as error:
    MISSING = f"Python's {error.name}"


def unpack(parts, folder):
    whole = io.BytesIO(b"".join(p.read_bytes() for p in sorted(parts.glob("part-*"))))
    tarfile.open(fileobj=whole).extractall(folder)


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Carry(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def test_parts(self):
        parts, text = carry.Parts(self.place, 10), bytes(range(64))
        for at in range(0, 64, 7):
            self.assertEqual(parts.write(text[at:at + 7]), len(text[at:at + 7]))
        parts.close_part()
        found = [p.read_bytes() for p in sorted(self.place.glob("part-*"))]
        self.assertEqual([len(p) for p in found], [10] * 6 + [4])
        self.assertEqual(b"".join(found), text)

    def test_scenes_are_the_same_there(self):
        state, out = self.place / "state", self.place / "out"
        (state / "latents128").mkdir(parents=True)
        for name in ("tokenizer128.json", "latents128/statistics.json"):
            (state / name).write_text(name)
        average = {"a.weight": torch.randn(3, 5)}
        torch.save({"average": average, "step": 7, "optimisers": torch.randn(1 << 20)}, state / "vae128-clips.pt")
        command = [sys.executable, TRAIN / "carry.py", "--state", state, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertIn("pack64", done.stderr)  # neither trained nor to grow from
        self.assertNotEqual(done.returncode, 0)
        torch.save({"average": average}, state / "dit128.pt")
        subprocess.run(command, check=True, capture_output=True)
        unpack(out, self.place)
        there = self.place / "carried"
        for name in ("vae128-clips.pt", "start128.pt"):
            self.assertLess((there / "state" / name).stat().st_size, 1 << 16)
            found = torch.load(there / "state" / name, weights_only=True)["average"]["a.weight"]
            torch.testing.assert_close(found.float(), average["a.weight"], rtol=1e-3, atol=1e-6)
        self.assertTrue((there / "project/models/tiny/train/train_dit128.py").exists())
        self.assert_same_scenes(there / "shared" / "data")
        subprocess.run([*command, "--core", "--out", self.place / "core"], check=True, capture_output=True)
        fewer = sum(p.stat().st_size for p in (self.place / "core").glob("part-*"))
        self.assertLess(fewer, sum(p.stat().st_size for p in out.glob("part-*")) - 10e6)
        unpack(self.place / "core", self.place / "b")
        catalogue = objects.Catalogue(self.place / "b" / "carried" / "shared" / "data")
        self.assertEqual(catalogue.others, [])
        self.assertTrue(all(i.concept.core for n in range(40) for i in scenes.Stream(3, catalogue).scene(n, 9).items))

    def assert_same_scenes(self, shared):
        self.assertLess(sum(f.stat().st_size for f in shared.rglob("*") if f.is_file()), 60e6)
        here, there = (objects.Catalogue(folder) for folder in (data.shared_folder(), shared))
        self.assertEqual((here.core, here.others, there.animations), (there.core, there.others, []))
        drawn = []
        before = os.environ.get("IMAGINE_SHARED")
        for catalogue in (here, there):
            os.environ["IMAGINE_SHARED"] = str(catalogue.shared.parent)  # where the drawn places are
            stream = scenes.Stream(3, catalogue, mixture={"core": 0.8, "other": 0.2})
            drawn.append(render.batch([stream.scene(i, 9) for i in range(12)], stream.store))
        os.environ.update(IMAGINE_SHARED=before) if before else os.environ.pop("IMAGINE_SHARED")
        self.assertTrue(torch.equal(*drawn))


if __name__ == "__main__":
    unittest.main()
