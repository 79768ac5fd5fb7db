# SPDX-License-Identifier: MIT
"""README.md's example in C: it compiles as it stands there, makes frames, and says what went wrong, before a job and in one."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = pathlib.Path(os.environ.get("IMAGINE_LIBRARY", TOP / "build/libimagine.so")).resolve()
PACK = TOP / "tests/packs/two-layer"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


class Example(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.place = pathlib.Path(cls.folder.name)
        source = re.search(r"^```c\n(.*?)^```$", (TOP / "README.md").read_text(), re.M | re.S)[1]
        flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I", TOP / "include", "-x", "c", "-", "-x", "none", LIBRARY]
        done = subprocess.run(["cc", *flags, f"-Wl,-rpath,{LIBRARY.parent}", "-o", cls.place / "example"], input=source, text=True,
                              capture_output=True, timeout=120)
        if done.returncode:
            cls.folder.cleanup()
            raise AssertionError(done.stderr)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_example(self, name, pack=None):
        """In a folder where models/tiny is the pack."""
        (self.place / name / "models").mkdir(parents=True)
        if pack:
            os.symlink(pack, self.place / name / "models" / "tiny")
        return subprocess.run([self.place / "example"], cwd=self.place / name, capture_output=True, text=True, timeout=120)

    def test_it_makes_frames(self):
        done = self.run_example("good", PACK)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "frames 0 to 0\nframes 1 to 4\n")

    def test_a_missing_pack(self):
        done = self.run_example("none")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("models/tiny", done.stderr)

    def test_a_job_that_fails(self):
        broken = self.place / "broken pack"
        shutil.copytree(PACK, broken)
        data = (PACK / WEIGHTS).read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        (broken / WEIGHTS).write_bytes(data[:begin] + b"\xff" * (len(data) - begin))  # nothing but NaN
        done = self.run_example("broken", broken)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, "^step 1 of .* is not finite\n$")


if __name__ == "__main__":
    unittest.main()
