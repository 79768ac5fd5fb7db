# SPDX-License-Identifier: MIT
"""Training on some of a frame's places: each keeps its position, and objects are chosen before bare ground."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"))

try:
    import torch
    from diffusers import WanTransformer3DModel

    import places
    MISSING = ""
except ImportError as error:
    MISSING = f"Python's {error.name}"


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Places(unittest.TestCase):
    def test_positions_are_kept(self):
        """All places in another order for each sample: the transformer gives the same, in that order."""
        torch.manual_seed(0)
        dit = WanTransformer3DModel(patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4,
                                    text_dim=8, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32)
        x, time, text = torch.randn(3, 4, 2, 5, 3), torch.tensor([100.0, 500.0, 900.0]), torch.randn(3, 6, 8)
        order = torch.stack([torch.randperm(15) for _ in range(3)])
        with torch.no_grad():
            whole = dit(x, time, text, return_dict=False)[0]
            lost = dit(places.taken(x, order), time, text, return_dict=False)[0]
            dit.rope = places.Rope(dit.rope, 5, 3)
            self.assertTrue(torch.equal(dit(x, time, text, return_dict=False)[0], whole))
            dit.rope.places = order
            found = dit(places.taken(x, order), time, text, return_dict=False)[0]
        torch.testing.assert_close(found, places.taken(whole, order), rtol=1e-5, atol=1e-6)
        self.assertGreater((lost - found).abs().max().item(), 1e-4)

    def test_objects_before_ground(self):
        random = torch.Generator().manual_seed(0)
        x = torch.randn(500, 48, 1, 1, 1, generator=random).expand(-1, -1, 3, 8, 8).clone()
        x[:, :, 1, 2:5, 3:6] += torch.randn(500, 48, 3, 3, generator=random)  # in the second frame alone
        found = places.chosen(x, 32, random)
        self.assertEqual(found.shape, (500, 32))
        self.assertTrue((found[:, 1:] > found[:, :-1]).all())
        share = torch.zeros(500, 64).scatter(1, found, 1.0).mean(0).view(8, 8)
        self.assertGreater(share[2:5, 3:6].min().item(), 0.9)
        ground = share[5:].flatten()
        self.assertGreater(ground.min().item(), 0.3)
        self.assertLess(ground.max().item(), 0.55)

    def test_what_is_taken(self):
        x = torch.arange(2 * 1 * 2 * 2 * 3.0).view(2, 1, 2, 2, 3)
        found = places.taken(x, torch.tensor([[0, 5], [2, 3]]))
        self.assertEqual(found.tolist(), [[[[[0], [5]], [[6], [11]]]], [[[[14], [15]], [[20], [21]]]]])


if __name__ == "__main__":
    unittest.main()
