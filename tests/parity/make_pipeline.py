# SPDX-License-Identifier: MIT
"""A whole run of diffusers' WanPipeline on the two-layer pack, prompt to frames, from given noise: the golden of
pipeline.c.

    python tests/parity/make_pipeline.py       writes tests/parity/pipeline/two-layer.safetensors
"""

import json
from pathlib import Path

import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

HERE = Path(__file__).parent
PACK = HERE.parent / "packs/two-layer"
PROMPT, NEGATIVE, STEPS, GUIDANCE = "a red apple", "a blue dog", 8, 3.5


@torch.no_grad()
def golden(pack):
    defaults = json.loads((pack / "imagine.json").read_text())
    pipe = WanPipeline.from_pretrained(pack, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    height, width, frames, length = (defaults[k] for k in ("height", "width", "frames", "text_length"))
    noise = torch.randn(1, pipe.transformer.config.in_channels, (frames - 1) // 4 + 1, height // 8, width // 8,
                        generator=torch.Generator().manual_seed(11))
    text = pipe.tokenizer(PROMPT, return_tensors="pt")
    embeds = pipe.text_encoder(text.input_ids, text.attention_mask).last_hidden_state[0]
    latents = pipe(PROMPT, negative_prompt=NEGATIVE, height=height, width=width, num_frames=frames,
                   num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise.clone(), output_type="latent",
                   max_sequence_length=length).frames
    mean, std = (torch.tensor(pipe.vae.config[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    decoded = pipe.vae.decode(latents * std + mean, return_dict=False)[0][0].clamp(-1, 1)
    # The first frame and the last one, which every frame before it has a part in.
    return {"noise": noise[0], "input_ids": text.input_ids[0].int(), "prompt_embeds": embeds, "latents": latents[0],
            "ends": torch.stack([decoded[:, 0], decoded[:, -1]], 1)}


def main():
    torch.set_num_threads(1)
    out = HERE / "pipeline/two-layer.safetensors"
    out.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in golden(PACK).items()}, out)
    out.chmod(0o644)


if __name__ == "__main__":
    main()
