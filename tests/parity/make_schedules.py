# SPDX-License-Identifier: MIT
"""The presets for distilled models and the rules with new noise, by diffusers' schedulers where it has one and by the
formula of docs/sampling.md where it has none: the golden of sampler_rules.c.

    python tests/parity/make_schedules.py      writes tests/parity/sampler/rules.safetensors

For each case: sigmas, timesteps, the noise that was drawn, and where x ends when the model is a formula.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler,
                       LCMScheduler, LTXEulerAncestralRFScheduler, SCMScheduler)
from safetensors.torch import save_file

HERE = Path(__file__).parent
SHAPE = (1, 3, 2, 5, 7)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
LTX2 = [1, .99375, .9875, .98125, .975, .909375, .725, .421875]


def model(x, t):
    return 1.3 * torch.tanh(x) + (-0.7 * (torch.as_tensor(t).float() / 1000) + 0.1)


def noises(count, seed):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=gen) for _ in range(count)]


def scheduler_run(s, seed=None):
    """Sigmas, timesteps and the end of diffusers' loop; the generator gives noises(steps, seed) in their order."""
    kw = {} if seed is None else {"generator": torch.Generator().manual_seed(seed)}
    x, sigmas, timesteps = X, s.sigmas.float(), s.timesteps.float()
    for t in list(s.timesteps)[:len(sigmas) - 1]:
        x = s.step(model(x, t), t, x, return_dict=False, **kw)[0]
    return {"sigmas": sigmas, "timesteps": timesteps, "": x}


def given(kind, shift, sigmas, timesteps=None, **config):
    s = kind(shift=shift, **config)
    s.set_timesteps(sigmas=sigmas, **({} if timesteps is None else {"timesteps": timesteps}))
    return s


def heun(steps):
    """diffusers divides by the next sigma, .001 at the last pair, in f32: the fewer steps, the more that costs it."""
    s = FlowMatchHeunDiscreteScheduler(shift=1)
    s.set_timesteps(steps)
    done = scheduler_run(s)
    done["sigmas"] = torch.cat([done["sigmas"][:1], done["sigmas"][1:-1:2], done["sigmas"][-1:]])
    done["timesteps"] = done["sigmas"][:-1] * 1000
    return done


def ancestral(eta, seed):
    s = LTXEulerAncestralRFScheduler(eta=eta)
    s.set_timesteps(sigmas=[float(v) for v in LTX2] + [0.0])
    done = scheduler_run(s, seed)
    done["timesteps"] = done["timesteps"][:-1]
    return done


def causvid():
    """The timesteps that the model is told, and the sigmas of the training schedule that lie nearest to them."""
    table = FlowMatchEulerDiscreteScheduler(shift=8.0)
    told = torch.tensor([1000.0, 757.0, 522.0])
    sigmas = [table.sigmas[(table.timesteps - t).abs().argmin()].item() for t in told]
    return given(FlowMatchLCMScheduler, 1.0, sigmas, told.tolist())


def rcm(steps, seed):
    """In f64, from noise times the first sigma, as the models' own programs do."""
    t = torch.tensor([np.arctan(80), 1.5, 1.4, 1.0][:steps] + [0], dtype=torch.float64)
    t = torch.sin(t) / (torch.cos(t) + torch.sin(t))
    x = X.double() * t[0]
    for i, z in enumerate(noises(steps, seed)):
        v = model(x.float(), t[i].float() * 1000).double()
        x = (1 - t[i + 1]) * (x - t[i] * v) + t[i + 1] * z
    return {"sigmas": t.float(), "timesteps": t[:-1].float() * 1000, "": x.float()}


def scm(steps, seed):
    """SCMScheduler on a model that predicts a flow, with the change of variables of SanaSprintPipeline."""
    s = SCMScheduler()
    s.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    gen = torch.Generator().manual_seed(seed)
    data, latents = s.config.sigma_data, X * s.config.sigma_data
    for angle in s.timesteps[:-1]:
        t = torch.sin(angle) / (torch.cos(angle) + torch.sin(angle))
        level = torch.sqrt(t ** 2 + (1 - t) ** 2)
        x = latents / data * level
        flow = model(x, t * 1000)
        trig = ((1 - 2 * t) * x + (1 - 2 * t + 2 * t ** 2) * flow) / level * data
        latents, denoised = s.step(trig, angle, latents, generator=gen, return_dict=False)
    sigmas = torch.sin(s.timesteps) / (torch.cos(s.timesteps) + torch.sin(s.timesteps))
    return {"sigmas": sigmas, "timesteps": sigmas[:-1] * 1000, "": denoised / data}


def lcm(steps, seed):
    """LCMScheduler's timesteps and boundary scalings; noise and signal mix as a flow model has them."""
    s = LCMScheduler()
    s.set_timesteps(steps)
    timesteps = s.timesteps.tolist()
    sigmas = [t / 1000 for t in timesteps] + [0.0]
    x = X
    for i, z in enumerate(noises(steps, seed)):
        skip, out = s.get_scalings_for_boundary_condition_discrete(timesteps[i])
        x = out * (x - sigmas[i] * model(x, timesteps[i])) + skip * x
        x = (1 - sigmas[i + 1]) * x + sigmas[i + 1] * z
    return {"sigmas": torch.tensor(sigmas), "timesteps": torch.tensor(timesteps).float(), "": x}


def z_image():
    s = FlowMatchEulerDiscreteScheduler(shift=3.0)
    s.sigma_min = 0.0
    s.set_timesteps(9)
    s.sigmas, s.timesteps = s.sigmas[:9], s.timesteps[:8]
    return scheduler_run(s)


def main():
    torch.set_num_threads(1)
    euler, warped = FlowMatchEulerDiscreteScheduler, [1, .75, .5, .25]
    cases = {f"heun.{n}": heun(n) for n in (1, 5, 8)}
    cases["renoise"] = scheduler_run(given(euler, 5.0, warped, stochastic_sampling=True), 20)
    cases["self-forcing"] = scheduler_run(given(FlowMatchLCMScheduler, 5.0, warped), 21)
    cases["causvid"] = scheduler_run(causvid(), 22)
    cases.update({f"rcm.{n}": rcm(n, 30 + n) for n in (1, 2, 4)})
    cases.update({f"scm.{n}": scm(n, 40 + n) for n in (1, 2, 4)})
    cases.update({f"lcm.{n}": lcm(n, 50 + n) for n in (1, 4, 8)})
    cases["ltx2"] = scheduler_run(given(euler, 1.0, LTX2))
    cases["ltx2-second"] = scheduler_run(given(euler, 1.0, LTX2[5:]))
    cases["ancestral.1"] = ancestral(1.0, 60)
    cases["ancestral.0.5"] = ancestral(0.5, 61)
    cases["schnell"] = scheduler_run(given(euler, 1.0, np.linspace(1, 1 / 4, 4)))
    cases["z-image"] = z_image()
    seeds = {"renoise": 20, "self-forcing": 21, "causvid": 22, "ancestral.1": 60, "ancestral.0.5": 61,
             **{f"{k}.{n}": b + n for k, b in (("rcm", 30), ("scm", 40), ("lcm", 50)) for n in (1, 2, 4, 8)}}
    tensors = {"x": X}
    for name, case in cases.items():
        for key, value in case.items():
            tensors[f"{name}.{key}" if key else name] = value.float().contiguous()
        if name in seeds and len(case["timesteps"]) > 1:
            tensors[f"{name}.noise"] = torch.stack(noises(len(case["timesteps"]) - 1, seeds[name]))
    out = HERE / "sampler/rules.safetensors"
    save_file(tensors, out)
    out.chmod(0o644)


if __name__ == "__main__":
    main()
