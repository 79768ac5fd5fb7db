# SPDX-License-Identifier: MIT
"""The 128x128 model's AutoencoderKLWan, grown from the 64x64 model's, as two faster functions with the same result.

Pixels enter and leave in patches of 2x2, so that the network works on the same grid of 64x64 as before and a latent stands for
16x16 pixels. It begins as what it has grown from: the first 16 channels of its latents are those of the picture at half the size, and
it decodes them to that picture with every pixel doubled. More channels, in the latents and in every layer, are there for the details.
"""

import torch
from diffusers import AutoencoderKLWan

import vae as plain

Z, OLD_Z = 32, 16
SPACE, TIME = 16, 4  # pixels of a latent's side, frames of a latent
CONFIG = dict(plain.CONFIG, base_dim=16, decoder_base_dim=20, z_dim=Z, in_channels=12, out_channels=12, patch_size=2,
              scale_factor_spatial=SPACE, scale_factor_temporal=TIME, latents_mean=[0.0] * Z, latents_std=[1.0] * Z)
LOUD, LOUDER = 0.5, 12.0  # see spread()
FRESH = 0.5  # of the usual size of random weights, for those that read new channels


def new_vae():
    return AutoencoderKLWan(**CONFIG)


def grouped(name, w):
    """How many blocks of equal size a weight's outputs are: queries, keys and values; the frames of an upsampling."""
    if "to_qkv" in name:
        return 3
    return 2 if "time_conv" in name and w.ndim == 5 and w.shape[0] == 2 * w.shape[1] else 1


def wider(old, new, groups):
    """An old weight or bias in a larger one: new outputs are 0 at first, new inputs are read by random weights."""
    a, b = (v.reshape(groups, v.shape[0] // groups, *v.shape[1:]) for v in (old, torch.zeros_like(new)))
    if old.ndim > 1:
        b[:, :a.shape[1]] = FRESH * new.reshape(b.shape)[:, :a.shape[1]]
        b[:, :a.shape[1], :a.shape[2]] = a
    else:
        b[:, :a.shape[1]] = a
    return b.reshape(new.shape)


@torch.no_grad()
def grown(small):
    """A new VAE that begins as the 64x64 model's `small`."""
    vae, old = new_vae(), small.state_dict()
    weights = vae.state_dict()
    for name, new in weights.items():
        w = old[name]
        if name == "encoder.conv_in.weight":  # the mean of a patch's pixels
            w = w.repeat_interleave(4, 1) / 4
        elif name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):  # the same for each of them
            w = w.repeat_interleave(4, 0)
        if "gamma" in name:  # norms are of more channels, though most are 0 at first
            weights[name] = torch.ones_like(new)
            weights[name][:len(w)] = w * (len(w) / len(new)) ** 0.5
            continue
        weights[name] = wider(w, new, grouped(name, old[name.rpartition(".")[0] + ".weight"]))
        if "to_qkv" in name:  # scores are divided by the root of the channels
            size = new.shape[0] // 3
            weights[name][:size] *= (size / (w.shape[0] // 3)) ** 0.5
    grow_latents(weights, vae.state_dict(), old)
    vae.load_state_dict(weights)
    return vae


def grow_latents(weights, fresh, old):
    """The old channels as they were, new ones from random weights; the log variance stays a constant (train_vae.py's SPREAD)."""
    new = slice(OLD_Z, Z)
    more = slice(2 * OLD_Z, 2 * Z)
    weights["encoder.conv_out.weight"][more] = fresh["encoder.conv_out.weight"][more]
    mean, bias = torch.zeros_like(fresh["quant_conv.weight"]), torch.zeros_like(fresh["quant_conv.bias"])
    mean[:OLD_Z, :2 * OLD_Z] = old["quant_conv.weight"][:OLD_Z]
    mean[new, more] = fresh["quant_conv.weight"][new, more]
    bias[:OLD_Z], bias[Z:] = old["quant_conv.bias"][:OLD_Z], -6.0
    weights["quant_conv.weight"], weights["quant_conv.bias"] = mean, bias
    weights["post_quant_conv.weight"][:OLD_Z, new] = 0
    weights["post_quant_conv.weight"][new, new] = torch.eye(Z - OLD_Z).view(Z - OLD_Z, Z - OLD_Z, 1, 1, 1)


@torch.no_grad()
def spread(vae, z):
    """Makes room for the new channels in place: what they have beyond the old ones is turned to axes of its own, each as loud as
    LOUD where that takes no more than LOUDER, and the decoder turns it back. They begin as quiet copies of the old channels, and
    the noise that training adds drowns what is new in them. `z`: latents [n, 32, ...]."""
    flat = z.detach().float().transpose(0, 1).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    old, new = flat[:OLD_Z], flat[OLD_Z:]
    follows = torch.linalg.lstsq(old.T, new.T).solution.T
    sizes, axes = torch.linalg.eigh(torch.cov(new - follows @ old))
    gain = (LOUD / sizes.clamp(min=1e-12).sqrt()).clamp(max=LOUDER)
    turn, back = gain[:, None] * axes.T, axes / gain
    for w in (vae.quant_conv.weight.view(2 * Z, -1), vae.quant_conv.bias.view(2 * Z, 1)):
        w[OLD_Z:Z] = turn @ (w[OLD_Z:Z] - follows @ w[:OLD_Z])
    w = vae.post_quant_conv.weight.view(Z, Z)
    w[:, :OLD_Z] += w[:, OLD_Z:] @ follows
    w[:, OLD_Z:] = w[:, OLD_Z:] @ back


def to_patches(x):
    """[b, c, ..., h, w] to [b, 4 c, ..., h/2, w/2]; of a patch's four pixels those of a column stand together."""
    *outer, h, w = x.shape
    x = x.reshape(outer[0], outer[1], -1, h // 2, 2, w // 2, 2).permute(0, 1, 6, 4, 2, 3, 5)
    return x.reshape(outer[0], outer[1] * 4, *outer[2:], h // 2, w // 2)


def from_patches(x):
    b, c, *outer, h, w = x.shape
    x = x.reshape(b, c // 4, 2, 2, -1, h, w).permute(0, 1, 4, 5, 3, 6, 2)
    return x.reshape(b, c // 4, *outer, 2 * h, 2 * w)


def halved(x):
    """Pictures or clips at half the size, as the 64x64 model sees them."""
    return to_patches(x).unflatten(1, (-1, 4)).mean(2)


def encode(vae, x):
    """The latents' mean, [b, 32, (frames,) h/16, w/16]."""
    return plain.encode(vae, to_patches(x))[0]


def decode(vae, z):
    """Pictures or clips in -1..1 (not clamped)."""
    return from_patches(plain.decode(vae, z))


def check(vae):
    """Compares both functions with diffusers' own, on noise."""
    plain.compare(vae, encode, decode, torch.randn(1, 3, 9, 64, 64))
