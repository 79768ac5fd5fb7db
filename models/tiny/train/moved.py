# SPDX-License-Identifier: MIT
"""Takes a trained transformer along to another VAE of the same shape: writes `start128.pt`, which train_dit128.py begins from.

The new VAE's latents are fitted to the old one's of the same pictures, linearly and for each place alone, and the transformer's first
and last layers read and write through that. What the fit misses has to be learnt anew.
"""

from pathlib import Path

import torch

import common
import latents128
import render
import scenes
import vae128

PICTURES = 768


@torch.inference_mode()
def normalised(vae, x, mean, std):
    """Latents as a transformer sees them, [channels, places]."""
    z = torch.cat([vae128.encode(vae, part) for part in x.split(48)])
    shape = 1, -1, 1, 1
    return ((z - mean.view(shape)) / std.view(shape)).transpose(0, 1).flatten(1)


def fitted(a, b):
    """M and c of b ~ M a + c, and the share of b's variance that is left."""
    a1 = torch.cat([a, torch.ones(1, a.shape[1])])
    solution = torch.linalg.lstsq(a1.T, b.T).solution.T
    return solution[:, :-1], solution[:, -1], ((b - solution @ a1).var(1) / b.var(1)).mean().item()


def moved(weights, old, new):
    """The weights for latents `new` of those for latents `old`, both [channels, places] of the same pictures."""
    read, _, left = fitted(new, old)
    write, shift, left_back = fitted(old, new)
    print(f"left of the old latents' variance {left:.3f}, of the new ones' {left_back:.3f}", flush=True)
    out = dict(weights)
    w = weights["dit.patch_embedding.weight"]
    out["dit.patch_embedding.weight"] = torch.einsum("oithw,ic->octhw", w, read)
    for name in ("dit.proj_out.weight", "dit.proj_out.bias"):  # [patch * channels, ...]: channels vary fastest
        rows = weights[name].unflatten(0, (-1, len(old)))
        rows = torch.einsum("nc,pc...->pn...", write, rows)
        out[name] = (rows - shift if name.endswith("bias") else rows).flatten(0, 1)
    return out


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a state folder with the transformer and its VAE")
    args = parser.parse_args()
    common.prepare(args)
    stream = scenes.Stream(latents128.SEED, step=latents128.STEP)
    made = [stream.scene((1 << 40) + i, 1) for i in range(PICTURES)]
    x = render.batch(made, stream.store)[:, :, 0].contiguous(memory_format=torch.channels_last)
    latents = [normalised(latents128.trained_vae(s), x, *latents128.statistics(s)) for s in (args.before, args.state)]
    weights = common.load(args.before / "dit128.pt")["average"]
    common.save(args.state / "start128.pt", average=moved(weights, *latents))


if __name__ == "__main__":
    main()
