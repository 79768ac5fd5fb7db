# SPDX-License-Identifier: MIT
"""The residual kind of AutoencoderKLWan (Wan 2.2's) as two faster functions with the same result.

As in vae.py: pictures [b, 3, h, w] run as a 2-D network over the last temporal taps, clips [b, 3, t, h, w] run all frames
at once. Pixels enter and leave in patches of 2x2, and every level has a shortcut without parameters around it.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan as wan

import vae as plain

Z = 48
SPACE, TIME = 16, 4  # pixels of a latent's side, frames of a latent
CONFIG = dict(
    base_dim=16,
    decoder_base_dim=24,
    z_dim=Z,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=1,
    attn_scales=[],
    temperal_downsample=[False, True, True],
    dropout=0.0,
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=SPACE,
    scale_factor_temporal=TIME,
    latents_mean=[0.0] * Z,
    latents_std=[1.0] * Z,
)


def new_vae():
    """A fresh VAE that begins near its shortcuts, and on still clips does what it does on pictures."""
    vae = AutoencoderKLWan(**CONFIG)
    with torch.no_grad():
        vae.quant_conv.weight[Z:] = 0  # the log variance is a constant: see SPREAD in train_vae128.py
        vae.quant_conv.bias[Z:] = -6.0
        for m in vae.modules():
            if isinstance(m, wan.WanCausalConv3d) and m.kernel_size[0] == 3:
                m.weight[:, :, :2] = 0
            if isinstance(m, wan.WanResidualBlock):
                m.conv2.weight.mul_(0.2)
            if isinstance(m, wan.WanResample) and hasattr(m, "time_conv"):
                plain.copy_frames(m.time_conv)
    return vae


def to_patches(x):
    """[b, c, ..., h, w] to [b, 4 c, ..., h/2, w/2]; of a patch's four pixels those of a column stand together."""
    *outer, h, w = x.shape
    x = x.reshape(outer[0], outer[1], -1, h // 2, 2, w // 2, 2).permute(0, 1, 6, 4, 2, 3, 5)
    return x.reshape(outer[0], outer[1] * 4, *outer[2:], h // 2, w // 2)


def from_patches(x):
    b, c, *outer, h, w = x.shape
    x = x.reshape(b, c // 4, 2, 2, -1, h, w).permute(0, 1, 4, 5, 3, 6, 2)
    return x.reshape(b, c // 4, *outer, 2 * h, 2 * w)


def shortcut_down(m, x):
    """Means of groups of values: a picture counts as the second frame of two, after one of zeros."""
    if x.ndim == 5:
        return m(x)
    s = m.factor_s
    x = F.pixel_unshuffle(x, s) if s > 1 else x
    b, _, h, w = x.shape
    x = x.view(b, m.in_channels, 1, s * s, h, w)
    if m.factor_t > 1:
        x = torch.cat([torch.zeros_like(x), x], 2)
    return x.reshape(b, m.out_channels, m.group_size, h, w).mean(2)


def shortcut_up(m, x):
    if x.ndim == 5:
        return m(x, first_chunk=True)
    b, _, h, w = x.shape
    x = x.repeat_interleave(m.repeats, 1).view(b, m.out_channels, m.factor_t, m.factor_s ** 2, h, w)[:, :, -1]
    return F.pixel_shuffle(x.reshape(b, -1, h, w), m.factor_s)


def down(block, x):
    y = plain.run(block.resnets, x)
    if block.downsampler is not None:
        y = plain.resample(block.downsampler, y)
    return y + shortcut_down(block.avg_shortcut, x)


def up(block, x):
    y = plain.run(block.resnets, x)
    if block.upsampler is None:
        return y
    return plain.resample(block.upsampler, y) + shortcut_up(block.avg_shortcut, x)



def encode(vae, x):
    """The latents' mean, [b, 48, (frames,) h/16, w/16]."""
    e = vae.encoder
    x = plain.conv(e.conv_in, to_patches(x))
    for block in e.down_blocks:
        x = down(block, x)
    x = plain.run(plain.middle(e.mid_block), x)
    x = plain.conv(vae.quant_conv, plain.conv(e.conv_out, plain.norm_silu(e.norm_out, x)))
    return x.float().chunk(2, 1)[0]


def decode(vae, z):
    """Pictures or clips in -1..1 (not clamped)."""
    d = vae.decoder
    x = plain.run(plain.middle(d.mid_block), plain.conv(d.conv_in, plain.conv(vae.post_quant_conv, z)))
    for block in d.up_blocks:
        x = up(block, x)
    return from_patches(plain.conv(d.conv_out, plain.norm_silu(d.norm_out, x)).float())


@torch.no_grad()
def check(vae):
    """Compares both functions with diffusers' own, on noise."""
    clip = torch.randn(1, 3, 9, 64, 64)
    for frames in (clip[:, :, :1], clip):
        mean = vae.encode(frames).latent_dist.mean
        image = vae.decode(mean).sample
        x = frames[:, :, 0] if frames.shape[2] == 1 else frames
        ours = encode(vae, x)
        back = decode(vae, ours).clamp(-1, 1)
        for a, b in ((mean, ours), (image, back)):
            error = (a.flatten() - b.flatten()).abs().max().item()
            assert error < 1e-3, f"the fast VAE differs from AutoencoderKLWan by {error}"
