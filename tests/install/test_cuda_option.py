# SPDX-License-Identifier: MIT
"""The option `cuda` with an nvcc that cannot be used: `auto` warns and goes on without the module, `enabled` says what is wrong."""

import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
USELESS = {
    "no program": ("\x7fELF of another machine", "does not tell its release"),
    "fails": ("#!/bin/sh\nexit 127\n", "does not tell its release (exit status 127)"),
    "says nothing": ("#!/bin/sh\n", "does not tell its release (exit status 0)"),
    "old": ("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n", "is of release 12.4"),
}


class CudaOption(unittest.TestCase):
    def set_up(self, contents, option):
        with tempfile.TemporaryDirectory() as folder:
            nvcc = pathlib.Path(folder, "nvcc")
            nvcc.write_text(contents)
            nvcc.chmod(0o755)
            return subprocess.run(["meson", "setup", pathlib.Path(folder, "build"), ROOT, f"-Dcuda={option}"], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                                  env=dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}"))

    def test_auto(self):
        for name, (contents, reason) in USELESS.items():
            with self.subTest(name):
                done = self.set_up(contents, "auto")
                self.assertEqual(done.returncode, 0, done.stdout)
                self.assertRegex(done.stdout, "WARNING: .*nvcc.*without the CUDA module")
                self.assertIn(reason, done.stdout)
                self.assertRegex(done.stdout, "CUDA module *: False")

    def test_enabled(self):
        for name, (contents, reason) in USELESS.items():
            with self.subTest(name):
                done = self.set_up(contents, "enabled")
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertRegex(done.stdout, "ERROR: .*-Dcuda=enabled: .*nvcc")
                self.assertIn(reason, done.stdout)

    def test_disabled(self):
        done = self.set_up(USELESS["fails"][0], "disabled")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("without the CUDA module", done.stdout)


if __name__ == "__main__":
    unittest.main()
