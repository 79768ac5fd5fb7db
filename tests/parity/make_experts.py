# SPDX-License-Identifier: MIT
"""A run of diffusers' WanPipeline with two experts, as Wan 2.2 A14B has: the two-layer pack's transformer and another of its
shape with other random weights, each with a guidance of its own: the golden of experts.c.

    python tests/parity/make_experts.py        writes tests/packs/second-expert and tests/parity/pipeline/experts.safetensors
"""

import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from make_pack import randomize, strip_metadata  # noqa: E402

PACK, SECOND = HERE.parent / "packs/two-layer", HERE.parent / "packs/second-expert"
BOUNDARY, STEPS, LENGTH = 0.7, 8, 24


def make_second():
    shutil.rmtree(SECOND, ignore_errors=True)
    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(PACK / "transformer"))
    randomize(model, 12).save_pretrained(SECOND)
    shutil.copy(PACK / "transformer/config.json", SECOND / "config.json")
    for path in SECOND.glob("*.safetensors"):
        strip_metadata(path)
    for path in [SECOND, *SECOND.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    make_second()
    experts = [WanTransformer3DModel.from_pretrained(p, torch_dtype=torch.float32).eval()
               for p in (PACK / "transformer", SECOND)]
    pipe = WanPipeline(tokenizer=None, text_encoder=None, boundary_ratio=BOUNDARY,
                       vae=AutoencoderKLWan.from_pretrained(PACK / "vae", torch_dtype=torch.float32),
                       scheduler=UniPCMultistepScheduler.from_pretrained(PACK / "scheduler"),
                       transformer=experts[0], transformer_2=experts[1])
    pipe.set_progress_bar_config(disable=True)
    gen = torch.Generator().manual_seed(6)
    noise = torch.randn(1, 16, 2, 4, 4, generator=gen)
    positive, negative = (torch.randn(1, LENGTH, 16, generator=gen) for _ in range(2))
    done = pipe(prompt_embeds=positive, negative_prompt_embeds=negative, height=32, width=32, num_frames=5,
                num_inference_steps=STEPS, guidance_scale=4.0, guidance_scale_2=2.5, latents=noise.clone(),
                output_type="latent").frames[0]
    tensors = {"noise": noise[0], "positive": positive[0], "negative": negative[0], "latents": done}
    out = HERE / "pipeline/experts.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, out)
    out.chmod(0o644)


if __name__ == "__main__":
    main()
