# SPDX-License-Identifier: MIT
"""Picture to video (WanImageToVideoPipeline with expand_timesteps, as Wan 2.2 TI2V 5B runs), video to video
(WanVideoToVideoPipeline) and known latents that are noised again before each step, on the two-layer pack: the golden of
conditions.c.

    python tests/parity/make_conditions.py     writes tests/parity/pipeline/conditions.safetensors
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import (AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler,
                       WanImageToVideoPipeline, WanTransformer3DModel, WanVideoToVideoPipeline)
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).parent
PACK = HERE.parent / "packs/two-layer"
WIDTH, HEIGHT, FRAMES, GUIDANCE, LENGTH = 48, 32, 9, 3.5, 24


def pictures(count):
    """Smooth colours that move."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 10
    clip = [np.stack([np.sin(x + k / 3 + c) * np.cos(y - k / 5 * c) for c in range(3)], -1) for k in range(count)]
    return np.round((np.stack(clip) + 1) * 127.5).astype(np.uint8)


def parts():
    return {"transformer": WanTransformer3DModel.from_pretrained(PACK / "transformer", torch_dtype=torch.float32).eval(),
            "vae": AutoencoderKLWan.from_pretrained(PACK / "vae", torch_dtype=torch.float32).eval(),
            "scheduler": UniPCMultistepScheduler.from_pretrained(PACK / "scheduler"),
            "tokenizer": None, "text_encoder": None}


def settings(positive, negative):
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative, "height": HEIGHT, "width": WIDTH,
            "guidance_scale": GUIDANCE, "output_type": "latent"}


def picture_to_video(frames, noise, text):
    pipe = WanImageToVideoPipeline(**parts(), expand_timesteps=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe(Image.fromarray(frames[0]), num_frames=FRAMES, num_inference_steps=6, latents=noise.clone(),
                **settings(*text)).frames[0]


def video_to_video(frames, text, strength, steps):
    """The pipeline draws its noise from the generator, once."""
    pipe = WanVideoToVideoPipeline(**parts())
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(5))
    done = pipe([Image.fromarray(f) for f in frames], strength=strength, num_inference_steps=steps,
                generator=torch.Generator().manual_seed(5), **settings(*text)).frames[0]
    return noise[0], done


def known(scheduler, model, noise, text, latents, mask):
    """Before each prediction the known part is at the step's sigma, with the noise that the run began with."""
    scheduler.set_timesteps(8) if isinstance(scheduler, UniPCMultistepScheduler) else \
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8))
    x = noise
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        seen = torch.where(mask, (1 - sigma) * latents + sigma * noise, x)
        cond, uncond = (model(seen, t.expand(1), e).sample for e in text)
        # A rule looks at each value by itself, so it does not matter what stands in the known part.
        x = scheduler.step(uncond + GUIDANCE * (cond - uncond), t, x, return_dict=False)[0]
    return torch.where(mask, latents, x)[0]


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(4)
    noise, latents = (torch.randn(1, 16, 3, HEIGHT // 8, WIDTH // 8, generator=gen) for _ in range(2))
    text = [torch.randn(1, LENGTH, 16, generator=gen) for _ in range(2)]
    frames = pictures(FRAMES)
    v2v_noise, v2v = video_to_video(frames, text, 0.6, 8)
    few_noise, few = video_to_video(frames, text, 0.3, 5)
    assert torch.equal(v2v_noise, few_noise)
    mask = torch.rand(3, HEIGHT // 8, WIDTH // 8, generator=gen) < 0.4
    model = parts()["transformer"]
    tensors = {"noise": noise[0], "known": latents[0], "positive": text[0][0], "negative": text[1][0],
               "mask": mask.float(), "frames": torch.from_numpy(frames), "video_noise": v2v_noise,
               "picture_to_video": picture_to_video(frames, noise, text), "video_to_video": v2v,
               "video_to_video_few": few,
               "renoised_euler": known(FlowMatchEulerDiscreteScheduler(shift=3.0), model, noise, text, latents, mask),
               "renoised_unipc": known(parts()["scheduler"], model, noise, text, latents, mask)}
    out = HERE / "pipeline/conditions.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, out)
    out.chmod(0o644)


if __name__ == "__main__":
    main()
