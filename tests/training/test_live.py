# SPDX-License-Identifier: MIT
"""Processes that draw scenes for one that trains: what they make arrives, they end with it, and it ends when one of them fails."""

import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"))

try:
    import torch

    import live
    MISSING = ""
except ImportError as error:
    MISSING = f"Python's {error.name}"


def counting(rank):
    for number in range(1000):
        yield {"x": torch.tensor([[rank, number]])}


def failing(rank):
    yield {"x": torch.tensor([[rank, 0]])}
    raise ValueError("meant to fail")


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Live(unittest.TestCase):
    def test_arrives_in_order_and_ends(self):
        drawers = live.Drawers(2, counting)
        seen = {0: [], 1: []}
        while min(map(len, seen.values())) < 50:
            rank, number = drawers.next(wait=True)["x"][0].tolist()
            seen[rank].append(number)
        children, folder = list(drawers.processes), drawers.folder
        drawers.stop()
        for numbers in seen.values():
            self.assertEqual(numbers, sorted(set(numbers)))
        self.assertFalse(folder.exists())
        for pid in children:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_failure_is_told(self):
        drawers = live.Drawers(1, failing)
        self.assertEqual(drawers.next(wait=True)["x"].tolist(), [[0, 0]])
        self.assertRaises(SystemExit, drawers.next, wait=True)

    def test_pool_keeps_the_newest(self):
        pool = live.Pool(4)
        for number in range(4):
            pool.add({"x": torch.full((3, 1), number)})
        found = {int(v) for v in pool.some(torch.Generator().manual_seed(0), 200)["x"]}
        self.assertIn(3, found)
        self.assertNotIn(0, found)
        self.assertEqual(pool.filled, 4)


if __name__ == "__main__":
    unittest.main()
