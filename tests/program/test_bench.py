# SPDX-License-Identifier: MIT
"""imagine bench: on the CPU, and on the emulated CUDA module, where every line of it runs at tiny sizes."""

import json
import os
import pathlib
import signal
import subprocess
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("IMAGINE_PROGRAM", str(TOP / "build/examples/imagine"))
EMULATED = pathlib.Path(PROGRAM).resolve().parents[1] / "tests/cuda_emulator/unwatched"
PACK = str(TOP / "tests/packs/two-layer")
EVERY = ["peak of multiply-add, bf16", "peak of multiply-add, f32", "memory", "launch of a kernel in a row",
         "launch of a kernel in a graph", "attention 1x64", "attention 1x128",
         "linear", "gelu", "gate and sum", "conv", "norm", "QK norm and RoPE", "VAE norm", "modulation", "sampler update",
         "12 tokens, bf16", "6 tokens, bf16", "6 tokens without graphs, bf16", "VAE decode 16x8", "VAE decode 16x16"]


def bench(*arguments):
    env = dict(os.environ, LD_LIBRARY_PATH=str(EMULATED))
    return subprocess.run([PROGRAM, "bench", *arguments], capture_output=True, text=True, timeout=300, env=env)


@unittest.skipUnless((EMULATED / "libimagine_cuda.so").exists(), "the emulated module was not built")
class OnTheEmulator(unittest.TestCase):
    def test_every_line_and_none_that_passes_for_a_gpus(self):
        done = bench("--device", "cuda", "--precision", "bf16", "--quick", "--model", PACK, "--runs", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        head, *lines = done.stdout.splitlines()[1:]
        self.assertIn("NO GPU", head)
        rows = [line for line in lines if not line.startswith(("emulator;", "prompt to frames"))]
        for row in rows:
            self.assertTrue(row.endswith("  (emulated)"), row)
        for name in EVERY:
            self.assertTrue(any(name in row for row in rows), name)
        self.assertTrue(all("cuBLASLt" in row or "cuDNN" in row for row in rows if "left out" in row))
        self.assertRegex(lines[-1], r"prompt to frames, call 1: [\d.]+ s, [\d.]+ clips a second")

    def test_json(self):
        done = bench("--device", "cuda", "--quick", "--json", "--filter", "step of")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)
        self.assertEqual((told["device"], told["emulated"], told["precision"]), ("emulator", True, "f32"))
        # what shares are of is always there
        self.assertEqual([row["kind"] for row in told["kernels"]], ["peak", "peak", "memory"] + 3 * ["transformer"])
        for row in told["kernels"]:
            self.assertTrue(row["emulated"] and row["unit"] and row["value"] > 0 and row["seconds"] > 0, row)
        step = told["kernels"][-1]
        self.assertGreater(step["gflops"], 0)
        self.assertTrue(step["name"].endswith(", f32"))

    def test_json_of_what_is_left_out_and_of_clips(self):
        left_out = json.loads(bench("--device", "cuda", "--quick", "--json", "--filter", "cuBLASLt").stdout)["kernels"][-1]
        self.assertIn("is not there", left_out["left_out"])
        self.assertNotIn("value", left_out)
        clips = json.loads(bench("--device", "cuda", "--quick", "--json", "--filter", "model", "--model", PACK, "--runs",
                                 "1").stdout)["generations"]
        self.assertEqual(len(clips), 1)
        self.assertGreater(clips[0]["clips_per_second"], 0)

    def test_usual_sizes_are_refused(self):
        done = bench("--device", "cuda", "--filter", "launch")
        self.assertEqual(done.returncode, 1)
        self.assertIn("the emulator would take days", done.stderr)


class OnTheProcessor(unittest.TestCase):
    def test_one_entry(self):
        done = bench("--json", "--threads", "1", "--filter", "48x256x256")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = json.loads(done.stdout)["kernels"]
        self.assertEqual([row["name"] for row in rows], ["peak of multiply-add", "linear 48x256x256 f32"])
        self.assertTrue(0 < rows[1]["share"] <= 1 and rows[1]["gflops"] > 0)

    def test_an_interrupt_ends_it(self):
        with subprocess.Popen([PROGRAM, "bench", "--threads", "1", "--filter", "linear"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            self.assertIn("libimagine", process.stdout.readline())
            self.assertIn("peak of multiply-add", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        self.assertEqual((process.returncode, errors), (-signal.SIGINT, "imagine: the work was cancelled\n"))

    def test_a_filter_that_nothing_matches(self):
        done = bench("--threads", "1", "--filter", "nothing of that name")
        self.assertEqual((done.returncode, done.stderr), (1, "imagine: --filter: no entry's name contains \"nothing of that name\"\n"))
        done = bench("--threads", "1", "--filter", "nothing of that name", "--json")
        said = json.loads(done.stdout)
        self.assertEqual((done.returncode, said["error"]["status"], len(said["kernels"])), (1, "ERROR_NOT_FOUND", 1))
        self.assertIn("nothing of that name", said["error"]["message"])

    def test_quick_is_for_a_device(self):
        self.assertEqual(bench("--quick").returncode, 2)


if __name__ == "__main__":
    unittest.main()
