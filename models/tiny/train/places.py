# SPDX-License-Identifier: MIT
"""Training a transformer on some of a picture's places, those where something stands before bare ground.

Most of a picture is ground, which is learnt long before the objects. With half of the places left out (Zheng et al., "Fast
training of diffusion models with masked transformers", 2023) twice as many objects are seen in the same time; towards the end
a model has to see whole pictures again.
"""

import torch

GROUND = 0.1  # added to a place's difference from the ground, so that places that show none are drawn alike


def chosen(x, count, random):
    """Numbers [n, count] of some of the places of normalised latents [n, channels, t, h, w], the same in all frames: drawn
    without putting back, by how far a place is in any frame from what most of the frame's places show."""
    flat = x.flatten(3)
    apart = (flat - flat.median(3, keepdim=True).values).square().mean(1).amax(1) + GROUND
    gumbel = -torch.rand(apart.shape, generator=random, device=x.device).clamp(1e-9, 1 - 1e-7).log().neg().log()
    return (apart.log() + gumbel).topk(count, 1).indices.sort(1).values


def taken(x, places):
    """What latents [n, channels, t, h, w] have at places [n, k]: [n, channels, t, k, 1]."""
    n, channels, t, _, _ = x.shape
    where = places.view(n, 1, 1, -1).expand(-1, channels, t, -1)
    return x.flatten(3).gather(3, where).unsqueeze(4)


class Rope(torch.nn.Module):
    """A transformer's position embedding for latents [n, channels, t, k, 1] that taken() made of frames of height x width;
    where no places are set, as it was."""

    def __init__(self, whole, height, width):
        super().__init__()
        self.whole, self.height, self.width = whole, height, width
        self.places = None

    def forward(self, x):
        if self.places is None:
            return self.whole(x)
        n, _, t, k, _ = x.shape
        tables = self.whole(x.new_empty(1, 1, t, self.height, self.width))
        return tuple(f.view(t, self.height * self.width, -1)[:, self.places].transpose(0, 1).reshape(n, t * k, 1, -1) for f in tables)
