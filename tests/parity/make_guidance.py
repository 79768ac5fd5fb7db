# SPDX-License-Identifier: MIT
"""Guidance on a share of the steps, rescaled, with diffusers' ClassifierFreeGuidance and UniPC on the two-layer pack's
transformer: the golden of guidance.c.

    python tests/parity/make_guidance.py       writes tests/parity/pipeline/guidance.safetensors
"""

from pathlib import Path

import torch
from diffusers import ClassifierFreeGuidance, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
PACK = HERE.parent / "packs/two-layer"
STEPS, SCALE, LENGTH = 8, 3.5, 24
CASES = {"rescaled": (0.7, 0.0, 1.0), "interval": (0.0, 0.3, 0.8), "both": (1.0, 0.0, 0.6)}


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    model = WanTransformer3DModel.from_pretrained(PACK / "transformer", torch_dtype=torch.float32).eval()
    gen = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 16, 2, 4, 4, generator=gen)
    positive, negative = (torch.randn(1, LENGTH, model.config.text_dim, generator=gen) for _ in range(2))
    tensors = {"noise": noise[0], "positive": positive[0], "negative": negative[0]}
    for name, (rescale, start, stop) in CASES.items():
        guider = ClassifierFreeGuidance(guidance_scale=SCALE, guidance_rescale=rescale, start=start, stop=stop)
        scheduler = UniPCMultistepScheduler.from_pretrained(PACK / "scheduler")
        scheduler.set_timesteps(STEPS)
        x = noise
        for i, t in enumerate(scheduler.timesteps):
            guider.set_state(step=i, num_inference_steps=STEPS, timestep=t)
            cond = model(x, t.expand(1), positive).sample
            uncond = model(x, t.expand(1), negative).sample if guider.num_conditions == 2 else None
            x = scheduler.step(guider.forward(cond, uncond).pred, t, x, return_dict=False)[0]
        tensors[name] = x[0]
    out = HERE / "pipeline/guidance.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, out)
    out.chmod(0o644)


if __name__ == "__main__":
    main()
