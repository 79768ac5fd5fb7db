# SPDX-License-Identifier: MIT
"""Random transformers of odd sizes with inputs and outputs by diffusers' WanTransformer3DModel, and sampling runs with
diffusers' schedulers: the goldens of dit.c and sampler.c.

    python tests/parity/make_dit.py            writes tests/parity/dit/ and tests/parity/sampler/
    python tests/parity/make_dit.py PACK OUT   the same for a transformer's folder, with its weights widened to f32

`make_shipped` makes those of the shipped model.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
COMMON = dict(in_channels=5, out_channels=5, text_dim=24, freq_dim=26, rope_max_seq_len=64)
PACKS = {
    "f32": (torch.float32, dict(num_attention_heads=3, attention_head_dim=14, ffn_dim=70, num_layers=2)),
    "bf16": (
        torch.bfloat16,
        dict(num_attention_heads=2, attention_head_dim=20, ffn_dim=66, num_layers=3, out_channels=4),
    ),
    "plain": (
        torch.float32,
        dict(num_attention_heads=1, attention_head_dim=10, ffn_dim=33, num_layers=1, patch_size=(2, 1, 3), freq_dim=9,
             cross_attn_norm=False, eps=1e-5, in_channels=16, text_dim=7),
    ),
}
# batch, frames, height, width, text length, per-token timesteps
CASES = [(1, 1, 2, 2, 1, False), (3, 3, 6, 10, 7, False), (1, 5, 4, 6, 32, False), (2, 5, 4, 6, 7, True),
         (1, 1, 2, 4, 32, True), (2, 2, 8, 6, 5, False)]
PLAIN_CASES = [(1, 2, 1, 3, 1, False), (3, 4, 5, 9, 7, False), (2, 6, 2, 6, 32, True)]


def random_model(config, dtype, seed):
    """Every weight large enough to matter, rounded to what the file holds."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(**config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif p.ndim >= 2 and "scale_shift" not in name:
                p.copy_(torch.randn_like(p) * 1.2 / p[0].numel() ** 0.5)
            else:
                p.copy_(0.3 * torch.randn_like(p))
            p.copy_(p.to(dtype).float())
    return model


def make_cases(model, cases, seed):
    config = model.config
    gen = torch.Generator().manual_seed(seed)
    tensors = {}
    for i, (batch, frames, height, width, length, per_token) in enumerate(cases):
        x = torch.randn(batch, config.in_channels, frames, height, width, generator=gen)
        text = torch.randn(batch, length, config.text_dim, generator=gen)
        text[0, length // 2 + 1:] = 0  # padding
        tokens = frames * height * width // int(np.prod(config.patch_size))
        t = torch.rand((batch, tokens) if per_token else (batch,), generator=gen) * 1000
        t.view(-1)[0] = 0 if per_token else 999
        with torch.no_grad():
            y = model(x, t, text).sample
        tensors |= {f"{i}.x": x, f"{i}.timestep": t, f"{i}.text": text, f"{i}.y": y.contiguous()}
    return tensors


def make_packs():
    for seed, (name, (dtype, config)) in enumerate(PACKS.items()):
        config = COMMON | config
        model = random_model(config, dtype, seed + 1)
        folder = HERE / "dit" / name
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()}
        save_file(state, folder / "diffusion_pytorch_model.safetensors")
        text = {k: v for k, v in model.config.items() if not k.startswith("_")}
        text = {"_class_name": "WanTransformer3DModel"} | text
        (folder / "config.json").write_text(json.dumps(text, indent=2) + "\n")
        cases = PLAIN_CASES if name == "plain" else CASES
        save_file(make_cases(model, cases, 100 + seed), folder / "cases.safetensors")


def unipc(shift):
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
                                   num_train_timesteps=1000)


def schedulers(steps, shift):
    flow = FlowMatchEulerDiscreteScheduler(shift=shift)
    flow.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    wan = unipc(shift)
    wan.set_timesteps(steps)
    return {"flow": flow, "unipc": wan}


def make_tables():
    tensors = {}
    for steps in (1, 2, 3, 4, 8, 20, 50):
        for shift in (1.0, 3.0, 5.0, 8.0):
            for name, s in schedulers(steps, shift).items():
                key = f"{name}.{steps}.{shift:g}"
                tensors[key + ".sigmas"] = s.sigmas.float()
                tensors[key + ".timesteps"] = s.timesteps.float()
    save_file(tensors, HERE / "sampler" / "tables.safetensors")


def run(scheduler, x, model):
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x, return_dict=False)[0]
    return x


def make_runs():
    """A model that is a formula: v = 1.3 tanh(x) - 0.7 t / 1000 + 0.1."""
    gen = torch.Generator().manual_seed(7)
    x = torch.randn(1, 3, 2, 5, 7, generator=gen)
    tensors = {"x": x}
    for steps in (1, 2, 3, 8, 20):
        for shift in (1.0, 5.0):
            for name, s in schedulers(steps, shift).items():
                y = run(s, x, lambda x, t: 1.3 * torch.tanh(x) + (-0.7 * (t.float() / 1000) + 0.1))
                tensors[f"{name}.{steps}.{shift:g}"] = y
    raw = unipc(1.0)
    raw.set_timesteps(sigmas=np.array([0.9, 0.85, 0.5, 0.2, 0.15]))
    tensors["raw"] = run(raw, x, lambda x, t: 1.3 * torch.tanh(x) + (-0.7 * (t.float() / 1000) + 0.1))
    save_file(tensors, HERE / "sampler" / "runs.safetensors")


def guided_runs(model, shape, seed, guidance, length=7, steps=8, shift=3.0):
    """WanPipeline's loop: the prediction without the prompt, plus the scale times what the prompt adds."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(1, model.config.in_channels, *shape, generator=gen)
    positive, negative = (torch.randn(1, length, model.config.text_dim, generator=gen) for _ in range(2))
    tensors = {"x": x, "positive": positive, "negative": negative}

    def guided(x, t):
        t = t.expand(x.shape[0])
        with torch.no_grad():
            cond, uncond = model(x, t, positive).sample, model(x, t, negative).sample
        return uncond + guidance * (cond - uncond)

    for name, s in schedulers(steps, shift).items():
        tensors[name] = run(s, x, guided).contiguous()
    return tensors


def main():
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        model = WanTransformer3DModel.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
        out = Path(sys.argv[2])
        out.mkdir(parents=True, exist_ok=True)
        cases = [(1, 1, 8, 8, 7, False), (2, 3, 4, 6, 20, False), (1, 3, 4, 6, 7, True)]
        save_file(make_cases(model, cases, 100), out / "cases.safetensors")
        save_file(guided_runs(model, (3, 4, 6), 8, 5.0, 20), out / "guided.safetensors")
        return
    make_packs()
    (HERE / "sampler").mkdir(exist_ok=True)
    make_tables()
    make_runs()
    model = WanTransformer3DModel.from_pretrained(HERE / "dit" / "f32").eval()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in
               load_file(HERE / "dit" / "f32" / "diffusion_pytorch_model.safetensors").items())
    save_file(guided_runs(model, (3, 4, 6), 8, 4.0), HERE / "sampler" / "guided.safetensors")


main()
