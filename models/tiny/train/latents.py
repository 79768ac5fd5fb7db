# SPDX-License-Identifier: MIT
"""Encodes captioned scenes once with the trained VAE, and measures the latents' mean and spread."""

import numpy as np
import torch

import common
import data
import vae as fast

PICTURES, CLIPS = 4000, 5000
BATCH = 24


def trained_vae(state):
    saved = common.load(state / "vae-decoder.pt") or common.load(state / "vae-clips.pt")
    if saved is None:
        raise SystemExit(f"{state}: no trained VAE; run train_vae.py first")
    vae = fast.new_vae()
    vae.load_state_dict(saved["average"], strict=False)
    return vae.eval().requires_grad_(False)


@torch.inference_mode()
def encoded(vae, objects, count, motion, seed):
    """Latents [count, 16, t, 8, 8] and four captions of each scene."""
    rng = np.random.default_rng(seed)
    latents, captions = [], []
    for start in range(0, count, BATCH):
        scenes = [data.Scene(rng, objects, motion) for _ in range(min(BATCH, count - start))]
        x = data.render_scenes(objects, scenes, 1 if motion else data.FRAMES)
        with common.autocast():
            mean = fast.encode(vae, x[:, :, 0] if motion else x)[0]
        latents.append(mean[:, :, None] if motion else mean)
        captions += [[s.caption(rng) for _ in range(4)] for s in scenes]
    return torch.cat(latents), captions


def statistics(*latents):
    flat = torch.cat([x.transpose(0, 1).flatten(1) for x in latents], 1)
    return flat.mean(1), flat.std(1)


def main():
    args = common.arguments(__doc__).parse_args()
    common.prepare(args)
    counts = (24, 24) if args.smoke else (PICTURES, CLIPS)
    vae, objects = trained_vae(args.state), data.Objects()
    pictures, picture_captions = encoded(vae, objects, counts[0], "still", 1)
    clips, clip_captions = encoded(vae, objects, counts[1], None, 2)
    mean, std = statistics(pictures, clips)
    shape = (1, -1, 1, 1, 1)
    def normal(x):
        return (x - mean.view(shape)) / std.view(shape)
    common.save(args.state / "latents.pt", mean=mean, std=std, pictures=normal(pictures), clips=normal(clips),
                picture_captions=picture_captions, clip_captions=clip_captions)
    print("latents: mean", mean.tolist(), "std", std.tolist())


if __name__ == "__main__":
    main()
