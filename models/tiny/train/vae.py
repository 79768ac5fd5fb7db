# SPDX-License-Identifier: MIT
"""AutoencoderKLWan as two faster functions with the same result: of pictures, and of whole clips.

A picture is one frame, before which there are zeros, so only the last temporal tap of each causal
convolution counts: `encode_picture` and `decode_picture` run those taps as 2-D convolutions.
`encode_clip` and `decode_clip` run all frames at once, where diffusers goes chunk by chunk: only the
resampling layers treat the first frame apart.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan as wan

CONFIG = dict(
    base_dim=12,
    decoder_base_dim=16,
    z_dim=16,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=2,
    attn_scales=[],
    temperal_downsample=[False, True, True],
    dropout=0.0,
    latents_mean=[0.0] * 16,
    latents_std=[1.0] * 16,
)


def new_vae():
    """A fresh VAE whose other temporal taps are zero, so that what it learns on pictures holds for still clips."""
    vae = AutoencoderKLWan(**CONFIG)
    with torch.no_grad():
        vae.quant_conv.weight[16:] = 0  # the log variance is a constant: see SPREAD in train_vae.py
        vae.quant_conv.bias[16:] = -6.0
        for m in vae.modules():
            if isinstance(m, wan.WanCausalConv3d) and m.kernel_size[0] == 3:
                m.weight[:, :, :2] = 0
            if isinstance(m, wan.WanResidualBlock):
                m.conv2.weight.mul_(0.2)
            if isinstance(m, wan.WanResample) and hasattr(m, "time_conv"):
                copy_frames(m.time_conv)
    return vae


def channels_last(vae):
    """Keeps the 3-D convolutions' weights channels last: steps on clips take a seventh less time."""
    for p in vae.parameters():
        if p.ndim == 5:
            p.data = p.data.contiguous(memory_format=torch.channels_last_3d)


def copy_frames(time_conv):
    """Makes a temporal convolution pass on the newest frame."""
    out, inner = time_conv.weight.shape[:2]
    time_conv.weight.zero_()
    time_conv.bias.zero_()
    for i in range(out // inner):
        time_conv.weight[i * inner:(i + 1) * inner, :, -1, 0, 0] = torch.eye(inner)


def norm_silu(norm, x):
    """WanRMS_norm then SiLU; the axis of channels is 1."""
    gamma = norm.gamma.view(-1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(x.float().square().sum(1, keepdim=True) + 1e-24) * norm.scale
    return F.silu(x * (scale * gamma).to(x.dtype))


def conv(m, x):
    """A causal convolution on pictures [b, c, h, w] or on clips [b, c, t, h, w]."""
    if x.ndim == 5:
        return m(x)
    return F.conv2d(x, m.weight[:, :, -1], m.bias, padding=m.kernel_size[1] // 2)


def residual(m, x):
    h = x if isinstance(m.conv_shortcut, torch.nn.Identity) else conv(m.conv_shortcut, x)
    x = conv(m.conv1, norm_silu(m.norm1, x))
    return conv(m.conv2, norm_silu(m.norm2, x)) + h


def attention(m, x):
    return m(x) if x.ndim == 5 else m(x[:, :, None])[:, :, 0]


def resample(m, x):
    """Down- or upsampling; frame 0 skips the temporal convolution."""
    if x.ndim == 4:
        return m.resample(x)
    if m.mode == "upsample3d" and x.shape[2] > 1:
        later = m.time_conv(x[:, :, 1:])
        b, c, t, h, w = later.shape
        later = later.view(b, 2, c // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c // 2, 2 * t, h, w)
        x = torch.cat([x[:, :, :1], later], 2)
    b, c, t, h, w = x.shape
    y = m.resample(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w))
    y = y.view(b, t, *y.shape[1:]).permute(0, 2, 1, 3, 4)
    if m.mode == "downsample3d" and t > 1:
        y = torch.cat([y[:, :, :1], m.time_conv(y)], 2)
    return y


def run(layers, x):
    for m in layers:
        if isinstance(m, wan.WanResidualBlock):
            x = residual(m, x)
        elif isinstance(m, wan.WanAttentionBlock):
            x = attention(m, x)
        else:
            x = resample(m, x)
    return x


def middle(m):
    return [m.resnets[0], m.attentions[0], m.resnets[1]]


def encode(vae, x):
    """Mean and log variance of the latents of pictures [b, 3, h, w] or clips [b, 3, t, h, w]."""
    e = vae.encoder
    x = run(middle(e.mid_block), run(e.down_blocks, conv(e.conv_in, x)))
    x = conv(vae.quant_conv, conv(e.conv_out, norm_silu(e.norm_out, x)))
    mean, logvar = x.float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def decode(vae, z):
    """Pictures or clips in -1..1 (not clamped)."""
    d = vae.decoder
    x = run(middle(d.mid_block), conv(d.conv_in, conv(vae.post_quant_conv, z)))
    for block in d.up_blocks:
        x = run(block.resnets, x)
        if block.upsamplers is not None:
            x = resample(block.upsamplers[0], x)
    return conv(d.conv_out, norm_silu(d.norm_out, x)).float()


@torch.no_grad()
def compare(vae, encode, decode, clip):
    """Two such functions with diffusers' own."""
    for frames in (clip[:, :, :1], clip):
        mean = vae.encode(frames).latent_dist.mean
        image = vae.decode(mean).sample
        x = frames[:, :, 0] if frames.shape[2] == 1 else frames
        ours = encode(vae, x)
        back = decode(vae, ours).clamp(-1, 1)
        for a, b in ((mean, ours), (image, back)):
            error = (a.flatten() - b.flatten()).abs().max().item()
            assert error < 1e-3, f"the fast VAE differs from AutoencoderKLWan by {error}"


def check(vae):
    """Compares both functions with diffusers' own, on noise."""
    compare(vae, lambda vae, x: encode(vae, x)[0], decode, torch.randn(1, 3, 9, 64, 64))
