# SPDX-License-Identifier: MIT
"""Processes that train together have the mean of their gradients, the sum of what they count, and share what each would do."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"

try:
    import torch  # noqa: F401
    MISSING = ""
except ImportError as error:
    MISSING = f"Python's {error.name}"

ONE = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
import torch, common
torch.set_num_threads(1)
team = common.Team(int(sys.argv[3]), pathlib.Path(sys.argv[1]))
model = torch.nn.Linear(3, 2)
model.requires_grad_(True)
(model(torch.full((1, 3), team.rank + 1.0))).sum().backward()
seconds, samples = team.share(model, 10 + team.rank)
late = team.any(team.rank == 1)
early = team.any(False)
stacks = [torch.arange(float(6 * n)).view(n, 2, 3) for n in (1, 4)]
squares = team.divided(torch.square, stacks)
assert all(torch.equal(s, x * x) for s, x in zip(squares, stacks)), squares
print(f"{team.rank} {model.weight.grad.unique().tolist()} {samples} {seconds >= 0} {late} {early}\\n", end="", flush=True)
team.leave()
"""


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Team(unittest.TestCase):
    def run_with(self, workers):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "one.py")
            script.write_text(ONE)
            out = subprocess.run([sys.executable, script, folder, TRAIN, str(workers)], capture_output=True, text=True, timeout=120)
        self.assertEqual(out.returncode, 0, out.stderr)
        return sorted(out.stdout.splitlines())

    def test_alone(self):
        self.assertEqual(self.run_with(1), ["0 [1.0] 10 True False False"])

    def test_three(self):
        self.assertEqual(self.run_with(3), [f"{rank} [2.0] 33 True True False" for rank in range(3)])


if __name__ == "__main__":
    unittest.main()
