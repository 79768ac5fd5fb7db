# SPDX-License-Identifier: MIT
"""Writes the pack in the layout of diffusers' WanPipeline, weights in bf16, and draws its contact sheet.

Before the transformer is trained it writes what there is: the VAE and the tokenizer.
"""

import json
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

import common
import latents
import sample
import text
import train_dit
import vae as fast

STEPS, GUIDANCE, SHIFT = 12, 3.0, 3.0
DEFAULTS = dict(width=64, height=64, frames=9, fps=8, steps=STEPS, guidance=GUIDANCE,
                text_length=text.LENGTH)


def with_statistics(vae, mean, std):
    vae.register_to_config(latents_mean=[round(v, 6) for v in mean.tolist()],
                           latents_std=[round(v, 6) for v in std.tolist()])
    return vae


def pipeline(model, tok, vae, weights):
    """The trained parts (running averages) as a WanPipeline in bf16."""
    model.eval().load_state_dict(weights, strict=False)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT,
                                        num_train_timesteps=1000, solver_order=2)
    half = torch.bfloat16
    return WanPipeline(tok, model.encoder.to(half), vae, scheduler, model.dit.to(half))


def tidy(folder):
    """Names the tokenizer's class as every version of transformers knows it, and lets others read the files."""
    for path in (p for name in ("model_index.json", "tokenizer_config.json") for p in folder.rglob(name)):
        path.write_text(path.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def size_of(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and "train" not in f.parts)


def draw_sheet(folder, path, steps=STEPS, guidance=GUIDANCE):
    """The fixed prompts through diffusers' own pipeline, weights widened to f32, one seed for all."""
    pipe = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    out = pipe(prompt=sample.PROMPTS, negative_prompt=[""] * len(sample.PROMPTS), height=64, width=64, num_frames=9,
               num_inference_steps=steps, guidance_scale=guidance, max_sequence_length=text.LENGTH, generator=noise,
               output_type="pt").frames
    sample.sheet(out.permute(0, 2, 1, 3, 4).float() * 2 - 1, path)


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    args = parser.parse_args()
    common.prepare(args)
    cache = common.load(args.state / "latents.pt")
    vae = with_statistics(latents.trained_vae(args.state), cache["mean"], cache["std"]).to(torch.bfloat16)
    if (args.state / "dit.pt").exists():
        tok = text.tokenizer(args.state)
        pipeline(train_dit.Model(tok), tok, vae, common.load(args.state / "dit.pt")["average"]).save_pretrained(args.out)
        (args.out / "imagine.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    else:
        vae.save_pretrained(args.out / "vae")
        text.tokenizer(args.state).save_pretrained(args.out / "tokenizer")
    tidy(args.out)
    if (args.out / "transformer").exists():
        draw_sheet(args.out, args.state / "sheet.png")
    print(f"{args.out}: {size_of(args.out)} bytes")


if __name__ == "__main__":
    main()
