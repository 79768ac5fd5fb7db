# SPDX-License-Identifier: MIT
"""A pack gives a training everything that it needs to go on: the same weights under the training's own names."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
TRAIN = TOP / "models" / "tiny" / "train"
sys.path.insert(0, str(TRAIN))

try:
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    import latents128
    import moved
    import text
    import train_dit
    import train_dit128
    import vae128
    MISSING = ""
except ImportError as error:
    MISSING = f"Python's {error.name}"


@unittest.skipIf(MISSING, f"needs {MISSING}")
class FromPack(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = Path(folder.name)
        self.pack = TOP / "models" / "tiny"
        subprocess.run([sys.executable, TRAIN / "from_pack.py", "--pack", self.pack, "--state", self.state], check=True)

    def test_weights(self):
        tok = text.tokenizer(self.state, train_dit128.TEXT, "tokenizer128.json")
        dit = WanTransformer3DModel.from_pretrained(self.pack / "transformer", torch_dtype=torch.float32)
        model = train_dit.Model(tok, train_dit128.TEXT, dict(dit.config))
        start = torch.load(self.state / "start128.pt", weights_only=True)["average"]
        missing, unexpected = model.load_state_dict(start, strict=False)
        self.assertEqual((missing, unexpected), (["encoder.encoder.embed_tokens.weight"], []))
        for name, w in dit.state_dict().items():
            self.assertTrue(torch.equal(model.dit.state_dict()[name], w), name)
        self.assertEqual(text.tokens(tok, ["a red apple"])[0][0, -1].item(), 0)  # padded to its length

    def test_vae(self):
        theirs = AutoencoderKLWan.from_pretrained(self.pack / "vae", torch_dtype=torch.float32).eval()
        x = torch.randn(1, 3, 64, 64)
        ours = latents128.trained_vae(self.state)
        with torch.no_grad():
            torch.testing.assert_close(vae128.encode(ours, x), vae128.encode(theirs, x))
        mean, std = latents128.statistics(self.state)
        self.assertEqual(mean.tolist(), torch.tensor(theirs.config.latents_mean).tolist())
        self.assertEqual(std.tolist(), torch.tensor(theirs.config.latents_std).tolist())

    def test_statistics_of_a_new_vae(self):
        """moved.py computes what is not there yet: latents have mean 0 and spread 1 then."""
        (self.state / "latents128" / "statistics.json").unlink()
        vae, x = latents128.trained_vae(self.state), torch.randn(4, 3, 64, 64)
        clips = torch.randn(2, 3, 5, 64, 64)
        mean, std = moved.statistics(self.state, vae, x, clips)
        with torch.no_grad():
            z = [vae128.encode(vae, part) for part in (x, clips)]
        flat = torch.cat([part.transpose(0, 1).flatten(1) for part in z], 1)
        torch.testing.assert_close(((flat - mean[:, None]) / std[:, None]).std(1), torch.ones(vae128.Z), rtol=1e-4, atol=1e-4)
        self.assertTrue((self.state / "latents128" / "statistics.json").exists())


if __name__ == "__main__":
    unittest.main()
