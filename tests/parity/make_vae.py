# SPDX-License-Identifier: MIT
"""Random VAEs of odd sizes with clips coded by diffusers' AutoencoderKLWan: the goldens of vae.c.

    python tests/parity/make_vae.py             writes tests/parity/vae/
    python tests/parity/make_vae.py VAE CASES   cases for a given VAE folder, its weights widened to f32
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from safetensors.torch import save_file

HERE = Path(__file__).parent
PATCHED = dict(patch_size=2, in_channels=12, out_channels=12)
COMMON = dict(attn_scales=[], dropout=0.0)
PACKS = {
    "f32": (torch.float32, dict(base_dim=4, decoder_base_dim=6, z_dim=16, dim_mult=[1, 2, 2, 1], num_res_blocks=1,
                                temperal_downsample=[False, True, True])),
    "bf16": (torch.bfloat16, dict(base_dim=6, decoder_base_dim=4, z_dim=5, dim_mult=[1, 2, 2], num_res_blocks=2,
                                  temperal_downsample=[True, False])),
    "early": (torch.float32, dict(base_dim=3, decoder_base_dim=2, z_dim=3, dim_mult=[1, 2, 4], num_res_blocks=2,
                                  temperal_downsample=[True, True])),
    # Wan 2.2: shortcuts, and 2x2 pixels as one
    "residual": (torch.float32, dict(base_dim=1, decoder_base_dim=2, z_dim=6, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
                                     temperal_downsample=[False, True, True], is_residual=True, **PATCHED)),
    "residual-bf16": (torch.bfloat16, dict(base_dim=2, decoder_base_dim=1, z_dim=5, dim_mult=[2, 4, 4],
                                           num_res_blocks=2, temperal_downsample=[True, True], is_residual=True,
                                           **PATCHED)),
    # means of several channels in the shortcuts, no patches
    "residual-narrow": (torch.float32, dict(base_dim=4, decoder_base_dim=2, z_dim=4, dim_mult=[2, 4, 2],
                                            num_res_blocks=1, temperal_downsample=[False, True], is_residual=True)),
    # a latent frame for each frame
    "per-frame": (torch.float32, dict(base_dim=3, decoder_base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 1], num_res_blocks=1,
                                      temperal_downsample=[False, False, False])),
    "residual-per-frame": (torch.bfloat16, dict(base_dim=2, decoder_base_dim=3, z_dim=3, dim_mult=[1, 2, 2],
                                                num_res_blocks=1, temperal_downsample=[False, False],
                                                is_residual=True, **PATCHED)),
}
# frames, height, width in multiples of the spatial factor
CASES = [(1, 3, 5), (1, 1, 1), (5, 2, 1), (9, 2, 3)]
PATCHED_CASES = [(1, 2, 3), (5, 1, 1), (9, 1, 2)]
PER_FRAME_CASES = [(1, 2, 3), (2, 1, 2), (5, 2, 1), (7, 1, 1)]


def spatial_factor(config):
    return 2 ** len(config["temperal_downsample"]) * (config.get("patch_size") or 1)


def random_vae(config, dtype, seed):
    """Every weight large enough to matter, rounded to what the file holds; pictures mostly inside [-1, 1]."""
    torch.manual_seed(seed)
    z = config["z_dim"]
    down = config["temperal_downsample"]
    vae = AutoencoderKLWan(**COMMON, **config,
                           scale_factor_spatial=spatial_factor(config), scale_factor_temporal=2 ** sum(down),
                           latents_mean=[round(0.3 * v, 4) for v in torch.randn(z).tolist()],
                           latents_std=[round(0.5 + v, 4) for v in torch.rand(z).tolist()]).eval()
    with torch.no_grad():
        for name, p in vae.named_parameters():
            if name.endswith("gamma"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif p.ndim >= 2:
                p.copy_(torch.randn_like(p) * 1.2 / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * torch.randn_like(p))
        vae.decoder.conv_out.weight.mul_(0.3)
        for p in vae.parameters():
            p.copy_(p.to(dtype).float())
    return vae


def encode(vae, clip):
    """The means. diffusers takes the first frame and then four at a time, whatever the configuration, and leaves out
    what remains. Where each frame has a latent of its own, other numbers than 4k+1 are valid: here one by one, with
    the same modules and feature cache."""
    means = vae.encode(clip).latent_dist.mode()
    if any(vae.config.temperal_downsample):
        return means
    vae.clear_cache()
    clip = patchify(clip, vae.config.patch_size or 1)
    coded = []
    for frame in clip.split(1, dim=2):
        vae._enc_conv_idx = [0]
        coded.append(vae.encoder(frame, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    vae.clear_cache()
    coded = vae.quant_conv(torch.cat(coded, 2))[:, :vae.config.z_dim]
    whole = means.shape[2]
    assert whole == 1 + (clip.shape[2] - 1) // 4 * 4 and (coded[:, :, :whole] - means).abs().max() < 1e-5
    return coded


@torch.no_grad()
def make_cases(vae, cases, seed):
    gen = torch.Generator().manual_seed(seed)
    config = vae.config
    factor = spatial_factor(config)
    per_latent = 2 ** sum(config.temperal_downsample)
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    tensors = {}
    for i, (frames, height, width) in enumerate(cases):
        clip = torch.rand(1, 3, frames, height * factor, width * factor, generator=gen) * 2 - 1
        latents = torch.randn(1, config.z_dim, 1 + (frames - 1) // per_latent, height, width, generator=gen)
        coded = (encode(vae, clip) - mean) / std
        assert coded.shape == latents.shape
        tensors[f"{i}.frames"], tensors[f"{i}.encoded"] = clip[0], coded[0]
        tensors[f"{i}.latents"], tensors[f"{i}.decoded"] = latents[0], vae.decode(latents * std + mean).sample[0]
        outside = (tensors[f"{i}.decoded"].abs() == 1).float().mean().item()
        print(f"  {frames} frames: latents' spread {coded.std():.3f}, {100 * outside:.1f}% of the values clamped")
    return {name: t.contiguous() for name, t in tensors.items()}


def save_pack(vae, folder, dtype):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "AutoencoderKLWan"}
    config.update({k: v for k, v in vae.config.items() if not k.startswith("_")})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.to(dtype).contiguous() for k, v in vae.state_dict().items()},
              folder / "diffusion_pytorch_model.safetensors")


def main():
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        vae = AutoencoderKLWan.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
        save_file(make_cases(vae, [(1, 3, 4), (5, 2, 2)], 7), sys.argv[2])
        return
    for seed, (name, (dtype, config)) in enumerate(PACKS.items()):
        print(name)
        vae = random_vae(config, dtype, seed)
        save_pack(vae, HERE / "vae" / name, dtype)
        cases = PATCHED_CASES if config.get("patch_size") else CASES
        if not any(config["temperal_downsample"]):
            cases = PER_FRAME_CASES
        save_file(make_cases(vae, cases, 100 + seed), HERE / "vae" / name / "cases.safetensors")


if __name__ == "__main__":
    main()
