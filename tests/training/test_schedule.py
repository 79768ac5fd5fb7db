# SPDX-License-Identifier: MIT
"""A run that goes on follows the plan that it is given now, unless it was asked to end early."""

import sys
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"))

try:
    import torch

    import common
    MISSING = ""
except ImportError as error:
    MISSING = f"Python's {error.name}"


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Schedule(unittest.TestCase):
    def optimisers(self, total):
        layer = torch.nn.Linear(4, 4)
        return common.Optimisers([layer.weight], [layer.bias], 1e-3, total, warmup=1, decay=10)

    def gone_on(self, before, total):
        after = self.optimisers(total)
        after.load(before.state())
        return after

    def test_more_steps(self):
        before = self.optimisers(100)
        self.assertAlmostEqual(before.rate(95), 0.5)
        after = self.gone_on(before, 200)
        self.assertEqual(after.rate(95), 1.0)
        self.assertAlmostEqual(after.rate(195), 0.5)

    def test_minutes_of_slow_steps_and_pauses(self):
        """Steps of two seconds count whole; a pause of an hour counts little."""
        clock, now = common.Clock(1, 1000), 100.0
        with unittest.mock.patch("time.monotonic", lambda: now):
            clock(0)
            for step in range(15):
                now += 2
                at = clock(step)
            self.assertAlmostEqual(at, 500)
            now += 3600
            self.assertLess(clock(16), 600)

    def test_ended_early(self):
        before = self.optimisers(100)
        before.finish(50)
        self.assertAlmostEqual(before.rate(55), 0.5)
        after = self.gone_on(before, 200)
        self.assertAlmostEqual(after.rate(55), 0.5)
        self.assertEqual(after.total, 60)


if __name__ == "__main__":
    unittest.main()
