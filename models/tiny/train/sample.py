# SPDX-License-Identifier: MIT
"""Draws fixed prompts with the transformer being trained, or with a finished pack."""

import torch
from PIL import Image

import common
import text
import vae as fast

PROMPTS = ["a red apple", "a dog on a blue background", "a yellow car moving to the right", "a red apple bouncing",
           "a cat", "a house on a green background", "a blue balloon", "a star growing",
           "a green fish moving to the left", "a tree on a yellow background", "a robot bouncing",
           "a pink heart", "an airplane moving to the right on a blue background", "a banana",
           "a panda on a pink background", "a red flower growing on a green background"]
STEPS, GUIDANCE, SHIFT = 20, 3.0, 2.0


def sigmas(steps, shift):
    s = torch.linspace(1, 0, steps + 1)
    return shift * s / (1 + (shift - 1) * s)


@torch.inference_mode()
def sample(dit, encoder, tok, prompts, frames, steps=STEPS, guidance=GUIDANCE, shift=SHIFT, seed=0, renoise=False):
    """Normalised latents [n, channels, t, 8, 8] by Euler steps, or estimates noised again, with guidance."""
    n = len(prompts)
    device = next(dit.parameters()).device
    ids, mask = (v.to(device) for v in text.tokens(tok, list(prompts) + [""] * n))
    context = text.embed(encoder, ids, mask)
    noise = torch.Generator().manual_seed(seed)
    def drawn(*shape):
        return torch.randn(shape, generator=noise).to(device)
    x = drawn(n, dit.config.in_channels, (frames - 1) // 4 + 1, 8, 8)
    s = sigmas(steps, shift).to(device)
    for now, then in zip(s[:-1], s[1:]):
        if guidance == 1:
            v = dit(x, now.expand(n) * 1000, context[:n], return_dict=False)[0].float()
        else:
            v = dit(torch.cat([x, x]), now.expand(2 * n) * 1000, context, return_dict=False)[0].float()
            v = v[n:] + guidance * (v[:n] - v[n:])
        x = torch.lerp(x - now * v, drawn(*x.shape), then) if renoise else x + (then - now) * v
    return x


@torch.inference_mode()
def frames_of(vae, latents, mean, std, decode=fast.decode):
    shape = (1, -1, 1, 1, 1)
    z = latents * std.view(shape) + mean.view(shape)
    out = torch.cat([decode(vae, part) for part in z.split(4)])
    return out.clamp(-1, 1)


def sheet(frames, path, columns=2):
    """Rows of frames, `columns` clips (or many pictures) side by side."""
    n, _, t, h, w = frames.shape
    image = frames.add(1).mul(127.5).round().byte().permute(0, 3, 2, 4, 1).reshape(n, h, t * w, 3)
    rows = [torch.cat(list(image[i:i + columns]), 1) for i in range(0, n, columns)]
    Image.fromarray(torch.cat(rows).cpu().numpy()).save(path)
