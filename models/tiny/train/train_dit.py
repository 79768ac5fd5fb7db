# SPDX-License-Identifier: MIT
"""Trains the diffusion transformer and the text encoder together: pictures first, then clips among them."""

import contextlib
import math

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

import common
import latents
import sample
import text

CONFIG = dict(patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=64, in_channels=16, out_channels=16,
              text_dim=text.WIDTH, freq_dim=256, ffn_dim=576, num_layers=4, cross_attn_norm=True,
              qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024)
SETTINGS = dict(lr=2e-3, steps=6000, warmup=60, decay=2400, average=0.995, weight_decay=0.01,
                pictures_first=1200, picture_share=0.2, picture_batch=96, clip_batch=40, noise=(0.4, 1.1, 0))
SMOKE = dict(steps=6, warmup=2, decay=3, pictures_first=3, picture_batch=4, clip_batch=4)
NO_CAPTION = 0.1
OFTEN = ("apple", "dog", "car", "cat", "ball", "heart", "house", "tree", "star", "balloon", "banana", "fish")  # 3 times
SAVE_EVERY, SHEET_EVERY = 100, 400


class Model(torch.nn.Module):
    def __init__(self, tok, size=text.SMALL, config=CONFIG):
        super().__init__()
        self.encoder = text.new_encoder(tok, size)
        self.dit = WanTransformer3DModel(**config)
        torch.nn.init.zeros_(self.dit.proj_out.weight)

    def forward(self, x, timestep, ids, mask):
        return self.dit(x, timestep, text.embed(self.encoder, ids, mask), return_dict=False)[0].float()


def tables(name):
    """Weights with two axes that are tables of vectors, which AdamW suits better."""
    return any(k in name for k in ("shared", "embed_tokens", "relative_attention_bias", "scale_shift_table"))


def inside_encoder(name):
    """The text encoder's matrices. Muon's steps are as large where there is little to learn: the layers grew until they drowned
    the words, and every context made another vector of a noun."""
    return name.startswith("encoder.") and not tables(name) and "norm" not in name


def attention_for(x):
    """On a CPU plain products beat the flash kernel at up to 144 tokens; the text encoder's biases have no other way at any length."""
    if x.device.type != "cpu":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.MATH] + [SDPBackend.FLASH_ATTENTION] * (x[0, 0].numel() > 576))


class Trainer:
    name = "dit"

    def __init__(self, args, settings):
        self.args, self.s = args, settings
        self.team = common.Team(getattr(args, "workers", 1), args.state)
        self.path = args.state / f"{self.name}.pt"
        self.tok = self.tokenizer()
        self.model, self.shown = (self.new_model().to(common.DEVICE) for _ in range(2))
        self.shown.eval()
        self.forward = self.model
        saved = common.load(self.path)
        if saved:
            self.model.load_state_dict(saved["model"])
        else:
            self.begin()
        named = list(self.model.named_parameters())
        gentle = [p for n, p in named if inside_encoder(n) and p.requires_grad]
        matrices, others = common.split([(n, p) for n, p in named if not tables(n) and not inside_encoder(n)])
        others += [p for n, p in named if tables(n)]
        self.optimisers = common.Optimisers(matrices, others, settings["lr"], settings["steps"], settings["warmup"],
                                            settings["decay"], settings["weight_decay"], gentle)
        self.optimisers.all[0].team = self.team
        self.average = common.Average(self.model, settings["average"])
        self.random = torch.Generator(common.DEVICE)
        self.step = 0
        if saved:
            self.optimisers.load(saved["optimisers"])
            self.average.values, self.step = saved["average"], saved["step"]
        self.meter = common.Meter(args.state / f"{self.name}.log", saved and saved["meter"])
        self.load_data()

    def tokenizer(self):
        return text.tokenizer(self.args.state)

    def new_model(self):
        return Model(self.tok)

    def begin(self):
        """What a new model starts from, beyond random weights."""

    def load_data(self):
        self.vae = latents.trained_vae(self.args.state)
        cache = common.load(self.args.state / "latents.pt")
        self.mean, self.std = cache["mean"], cache["std"]
        self.sets, self.weights = {}, {}
        for kind in ("picture", "clip"):
            captions = cache[f"{kind}_captions"]
            ids, mask = text.tokens(self.tok, [c for four in captions for c in four])
            self.sets[kind] = cache[f"{kind}s"], ids.view(-1, 4, text.LENGTH), mask.view(-1, 4, text.LENGTH)
            weight = np.array([3.0 if any(set(c.split()) & set(OFTEN) for c in four) else 1.0 for four in captions])
            self.weights[kind] = weight / weight.sum()
        self.no_ids, self.no_mask = text.tokens(self.tok, [""])

    def batch(self, rng):
        first = self.step < self.s["pictures_first"]
        kind = "picture" if first or rng.random() < self.s["picture_share"] else "clip"
        n = self.s[f"{kind}_batch"]
        x, ids, mask = self.sets[kind]
        rows = torch.from_numpy(rng.choice(len(x), size=n, p=self.weights[kind]))
        wording = torch.from_numpy(rng.integers(4, size=n))
        x, ids, mask = x[rows], ids[rows, wording], mask[rows, wording]
        if kind == "picture":
            x, ids, mask = self.add_first_frames(rng, x, ids, mask)
        empty = torch.from_numpy(rng.random(n) < NO_CAPTION)
        ids[empty], mask[empty] = self.no_ids, self.no_mask
        return x, ids, mask

    def add_first_frames(self, rng, x, ids, mask):
        """A quarter of the pictures are first frames of clips, so that motion words do no harm there."""
        clips, clip_ids, clip_mask = self.sets["clip"]
        n = len(x) // 4
        rows = torch.from_numpy(rng.integers(len(clips), size=n))
        x[:n], ids[:n], mask[:n] = clips[rows, :, :1], clip_ids[rows, 0], clip_mask[rows, 0]
        return x, ids, mask

    def noise_levels(self, n, depth):
        """Of n samples with `depth` latent frames: [n, 1, 1, 1, 1]."""
        middle, spread, longer = self.s["noise"]
        return torch.sigmoid(middle + longer * math.log(depth) + spread * self.normal(n, 1, 1, 1, 1))

    def loss(self, x, ids, mask, *more):
        sigma = self.noise_levels(len(x), x.shape[2])
        noise = self.normal(*x.shape)
        noisy = (1 - sigma) * x + sigma * noise
        with common.autocast(), attention_for(x):
            v = self.forward(noisy, sigma.flatten() * 1000, ids, mask)
        return self.mean_error((v - (noise - x)).square(), sigma, *more)

    def mean_error(self, squares, sigma):
        return squares.mean()

    def normal(self, *shape):
        return torch.randn(shape, generator=self.random, device=common.DEVICE)

    def position(self):
        """Where this step is in the plan."""
        return self.optimisers.position(self.step)

    def one_step(self):
        rng = np.random.default_rng([self.step, 99] + [self.team.rank] * (self.team.rank > 0))
        self.random.manual_seed(int(rng.integers(1 << 62)))
        x, *rest = self.batch(rng)
        loss = self.loss(x, *rest)
        loss.backward()
        seconds, samples = self.team.share(self.model, len(x))
        self.meter.add(seconds, samples)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimisers.apply(self.step)
        self.average.update(self.model, self.step)
        self.step += 1
        return loss.detach(), x.shape[2]

    def save(self):
        common.save(self.path, model=self.model.state_dict(), average=self.average.values, step=self.step,
                    optimisers=self.optimisers.state(), meter=self.meter.state())

    def show(self):
        self.average.store_into(self.shown)
        frames = 1 if self.step < self.s["pictures_first"] + 100 else 9
        with common.autocast():
            z = sample.sample(self.shown.dit, self.shown.encoder, self.tok, sample.PROMPTS, frames)
            out = sample.frames_of(self.vae, z, self.mean, self.std)
        sample.sheet(out, self.args.state / f"dit-{self.step:05d}.png", 8 if frames == 1 else 2)

    def ended(self):
        return self.team.any(self.position() >= self.optimisers.total)

    def run(self):
        recent = {}
        last = self.ended()
        while not last:
            if self.team.any(common.wants_to_finish(self.args.state, self.name)):
                self.optimisers.finish(self.step)
            loss, depth = self.one_step()
            recent.setdefault(depth, []).append(loss)
            last = self.ended()
            if self.team.rank:
                continue
            if self.step % 50 == 0:
                means = ", ".join(f"{k}: {torch.stack(v[-50:]).mean().item():.4f}" for k, v in sorted(recent.items()))
                self.meter.say(f"step {self.step}, loss by latent frames {means}")
                recent = {k: v[-50:] for k, v in recent.items()}
            if self.step % self.s.get("save_every", SAVE_EVERY) == 0 or last:
                self.save()
            if self.step % self.s.get("show_every", SHEET_EVERY) == 0 or last:
                self.show()
        self.team.leave()


def main():
    args = common.arguments(__doc__).parse_args()
    common.prepare(args)
    torch.manual_seed(0)
    Trainer(args, dict(SETTINGS, **(SMOKE if args.smoke else {}))).run()


if __name__ == "__main__":
    main()
