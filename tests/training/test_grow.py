# SPDX-License-Identifier: MIT
"""The 128x128 model begins as the function that the 64x64 model is."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models" / "tiny" / "train"))

try:
    import numpy as np
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    import grow
    import moved
    import train_dit
    import train_dit128
    import vae
    import vae128
    MISSING = ""
except ImportError as error:
    MISSING = f"Python's {error.name}"


def randomised(module):
    """Weights that are nowhere 0 or 1, as trained ones are."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return module.eval()


@unittest.skipIf(MISSING, f"needs {MISSING}")
class Grow(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_vae(self):
        small = randomised(AutoencoderKLWan(**vae.CONFIG))
        large = vae128.grown(small).eval()
        for shape in ((2, 3, 128, 96), (1, 3, 9, 64, 64)):
            x = torch.randn(shape)
            with torch.no_grad():
                z, old = vae128.encode(large, x), vae.encode(small, vae128.halved(x))[0]
                torch.testing.assert_close(z[:, :16], old, rtol=1e-4, atol=1e-5)
                self.assertGreater(z[:, 16:].std().item(), 0.001)  # what is new is not nothing
                z[:, 16:] = 0
                frames, doubled = vae128.decode(large, z), vae.decode(small, old)
            doubled = doubled.repeat_interleave(2, -1).repeat_interleave(2, -2)
            torch.testing.assert_close(frames, doubled, rtol=1e-4, atol=1e-5)

    def test_spread(self):
        """The same function of pictures, with new channels that are loud and independent."""
        large = vae128.grown(randomised(AutoencoderKLWan(**vae.CONFIG))).eval()
        x = torch.randn(48, 3, 64, 64)
        with torch.no_grad():
            z = vae128.encode(large, x)
            before = vae128.decode(large, z)
            vae128.spread(large, z)
            spread = vae128.encode(large, x)
            after = vae128.decode(large, spread)
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(spread[:, :16], z[:, :16])
        flat = spread.transpose(0, 1).flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        sizes = torch.linalg.eigvalsh(torch.cov(flat[16:])).sqrt()
        self.assertLess(sizes[-1].item(), vae128.LOUD + 0.01)
        self.assertGreater(sizes.median().item(), 2 * z[:, 16:].std().item())
        together = (flat[:16] @ flat[16:].T).abs().max() / flat.shape[1]
        self.assertLess(together.item(), 0.01)

    def test_moved(self):
        """Where the new latents are the old ones turned round, what is predicted of them is the old prediction turned round."""
        model = randomised(WanTransformer3DModel(**train_dit128.CONFIG))
        old, (turn, _) = torch.randn(vae128.Z, 500), torch.linalg.qr(torch.randn(vae128.Z, vae128.Z))
        weights = {f"dit.{n}": w for n, w in model.state_dict().items()}
        x, text, time = torch.randn(2, vae128.Z, 3, 8, 6), torch.randn(2, 5, train_dit128.TEXT.width), torch.tensor([100.0, 900.0])
        def turned(v):
            return torch.einsum("nc,bcthw->bnthw", turn, v)
        with torch.no_grad():
            before = model(x, time, text, return_dict=False)[0]
            model.load_state_dict({n.removeprefix("dit."): w for n, w in moved.moved(weights, old, turn @ old).items()})
            after = model(turned(x), time, text, return_dict=False)[0]
        torch.testing.assert_close(after, turned(before), rtol=1e-3, atol=1e-3)

    def test_transformer(self):
        small = randomised(WanTransformer3DModel(**train_dit.CONFIG))
        large, scaled = (WanTransformer3DModel(**train_dit128.COARSE).eval() for _ in range(2))
        scale, offset = torch.rand(16) + 0.5, torch.randn(16)
        with tempfile.TemporaryDirectory() as folder:
            small.save_pretrained(Path(folder) / "transformer")
            grow.transformer(large, Path(folder))
            grow.transformer(scaled, Path(folder), scale, offset)
        x, text, time = torch.randn(2, 16, 3, 8, 6), torch.randn(2, 5, 128), torch.tensor([100.0, 900.0])
        wider = torch.nn.functional.pad(text, (0, train_dit128.TEXT.width - text.shape[2]))
        with torch.no_grad():
            old = small(x, time, text, return_dict=False)[0]
            new = large(torch.cat([x, torch.zeros_like(x)], 1), time, wider, return_dict=False)[0]
            moved = large(torch.cat([x, x], 1), time, wider, return_dict=False)[0]
            # noise less latents: of latents (old - offset) / scale
            a, b = (v.view(1, -1, 1, 1, 1) for v in (scale, offset))
            other = scaled(torch.cat([x / a, torch.zeros_like(x)], 1), time, wider, return_dict=False)[0]
        torch.testing.assert_close(other[:, :16], (old + b) / a, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(new[:, :16], old, rtol=1e-4, atol=1e-5)
        self.assertEqual(new[:, 16:].abs().max().item(), 0)
        self.assertGreater((moved[:, :16] - old).abs().max().item(), 1e-3)  # the new channels are seen

    def test_errors_where_objects_are(self):
        """They count more, up to the noise in which nobody knows where that is."""
        squares, shown = torch.ones(1, 2, 1, 2, 2), torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
        for sigma, more in ((0.3, 1.0), (0.85, 1.0), (0.91, 0.5), (0.97, 0.0), (1.0, 0.0)):
            found = train_dit128.Trainer.mean_error(None, squares, torch.tensor(sigma).view(1, 1, 1, 1, 1), shown)
            self.assertAlmostEqual(found.item(), 1 + more * train_dit128.OBJECTS / 4, places=5, msg=sigma)

    def test_lengths(self):
        """Clips come in the shares that the settings give their lengths, those that are there."""
        trainer = object.__new__(train_dit128.Trainer)
        trainer.s, rng = dict(lengths={3: 0.1, 5: 0.6, 7: 0.3}), np.random.default_rng(0)
        drawn = [trainer.some_clips(rng, [("picture", 1), ("clip", 3), ("clip", 5)]) for _ in range(700)]
        self.assertEqual(set(drawn), {("clip", 3), ("clip", 5)})
        self.assertAlmostEqual(drawn.count(("clip", 3)), 100, delta=30)

    def test_finer(self):
        """Of latents that are the same all over, where places say nothing, a token for each of them sees and predicts what one for four did."""
        coarse = randomised(WanTransformer3DModel(**train_dit128.COARSE))
        fine = WanTransformer3DModel(**train_dit128.FINE).eval()
        weights = grow.finer({f"dit.{n}": w for n, w in coarse.state_dict().items()}, vae128.Z)
        fine.load_state_dict({n.removeprefix("dit."): w for n, w in weights.items()})
        x, text, time = torch.randn(2, vae128.Z, 1, 1, 1).expand(-1, -1, 3, 8, 6), torch.randn(2, 5, train_dit128.TEXT.width), torch.tensor([100.0, 900.0])
        with torch.no_grad():
            before = coarse(x, time, text, return_dict=False)[0]
            after = fine(x, time, text, return_dict=False)[0]
        self.assertGreater(before.std().item(), 0.1)
        torch.testing.assert_close(after.mean((2, 3, 4)), before.mean((2, 3, 4)), rtol=1e-3, atol=1e-3)
        self.assertEqual(grow.finer(weights, vae128.Z)["dit.proj_out.bias"].shape, (vae128.Z,))
        with self.assertRaisesRegex(SystemExit, "IMAGINE_TRAIN_FINE"):
            train_dit128.checked(weights)


if __name__ == "__main__":
    unittest.main()
