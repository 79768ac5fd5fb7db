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

PICTURES, CLIPS, FRAMES = 768, 48, 17


@torch.inference_mode()
def normalised(vae, x, mean, std):
    """Latents as a transformer sees them, [channels, places]."""
    z = torch.cat([vae128.encode(vae, part.to(common.DEVICE)) for part in x.split(48)])
    shape = 1, -1, 1, 1
    return ((z - mean.view(shape)) / std.view(shape)).transpose(0, 1).flatten(1)


def fitted(a, b):
    """M and c of b ~ M a + c, and the share of b's variance that is left."""
    a1 = torch.cat([a, torch.ones_like(a[:1])])
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


@torch.inference_mode()
def statistics(state, vae, x, clips):
    """As latents128.statistics(); where nothing is encoded yet, of these pictures and clips."""
    folder = state / "latents128"
    folder.mkdir(exist_ok=True)
    if not (folder / "statistics.json").exists() and not any(folder.glob("*.safetensors")):
        z = [vae128.encode(vae, part.to(common.DEVICE)) for every in (x, clips) for part in every.split(48 if every is x else 4)]
        flat = torch.cat([part.transpose(0, 1).flatten(1) for part in z], 1)
        latents128.write_statistics(folder, flat.mean(1), flat.std(1))
    return latents128.statistics(state)


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a state folder with the transformer and its VAE")
    args = parser.parse_args()
    common.prepare(args)
    stream = scenes.Stream(latents128.SEED, step=latents128.STEP)
    made = [stream.scene((1 << 40) + i, 1) for i in range(PICTURES)]
    x = render.batch(made, stream.store)[:, :, 0].contiguous(memory_format=torch.channels_last)
    clips = render.batch([stream.scene((1 << 41) + i, FRAMES) for i in range(CLIPS)], stream.store)
    latents = []
    for state in (args.before, args.state):
        vae = latents128.trained_vae(state)
        latents.append(normalised(vae, x, *statistics(state, vae, x, clips)))
    before = common.load(args.before / "dit128.pt") or common.load(args.before / "start128.pt")
    common.save(args.state / "start128.pt", average=moved(before["average"], *latents))


if __name__ == "__main__":
    main()
