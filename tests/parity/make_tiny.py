#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/parity/tiny.safetensors: what diffusers' WanPipeline makes of the shipped model, in f32, from given noise: a
picture of the model's own size and a smaller clip, with guidance whether or not the pack has any; and two prompts' embeddings.
`make_shipped` runs it, whenever models/tiny has new weights."""
import argparse
import json
import pathlib

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
PROMPT, NEGATIVE = "a red apple bouncing", "a dog on a blue background"
TEXTS = {"": PROMPT, "japanese.": "青い背景のりんごが跳ねている"}
STEPS, GUIDANCE, SHIFT = 8, 3.0, 3.0
ROWS = 4  # every fourth row of the frames is kept
CLIP = (9, 32, 64)  # frames, height, width


def sample(pipe, frames, height, width, length):
    """Latents and decoded frames of one run from seeded noise."""
    generator = torch.Generator().manual_seed(frames)
    factor = pipe.vae.config.scale_factor_spatial
    shape = (1, pipe.transformer.config.in_channels, (frames - 1) // 4 + 1, height // factor, width // factor)
    noise = torch.randn(shape, generator=generator)
    latents = pipe(PROMPT, negative_prompt=NEGATIVE, height=height, width=width, num_frames=frames, num_inference_steps=STEPS,
                   guidance_scale=GUIDANCE, latents=noise, max_sequence_length=length, output_type="latent").frames
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(pipe.vae.config.latents_std).view(1, -1, 1, 1, 1)
    decoded = pipe.vae.decode(latents * std + mean).sample
    encoded = (pipe.vae.encode(decoded).latent_dist.mode() - mean) / std
    return noise[0], latents[0], decoded[0], encoded[0]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, default=HERE.parents[1] / "models" / "tiny")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "tiny.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = WanPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=SHIFT)
    pipe.set_progress_bar_config(disable=True)
    own = json.loads((args.model / "imagine.json").read_text())
    length = pipe.tokenizer.model_max_length
    tensors = {}
    for name, text in TEXTS.items():
        ids = pipe.tokenizer(text, return_tensors="pt").input_ids
        embeds = pipe.text_encoder(ids, torch.ones_like(ids)).last_hidden_state[0]
        tensors |= {f"{name}ids": ids[0].int(), f"{name}embeds": embeds}
    for name, size in (("picture", (1, own["height"], own["width"])), ("clip", CLIP)):
        noise, latents, decoded, encoded = sample(pipe, *size, length)
        tensors |= {f"{name}.noise": noise, f"{name}.latents": latents, f"{name}.encoded": encoded}
        tensors[f"{name}.frames"] = decoded[:, ::4, ::ROWS].contiguous()  # every fourth: frames 0, 4 and 8
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, args.out)


if __name__ == "__main__":
    main()
