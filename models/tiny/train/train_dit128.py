# SPDX-License-Identifier: MIT
"""Trains the 128x128 model's transformer and text encoder, grown from the 64x64 model's: pictures first, then clips among them."""

import time

import numpy as np
import torch

import captions
import common
import grow
import latents128
import live
import sample
import scenes
import text
import train_dit
import train_vae128
import vae128

TEXT = text.Size(length=48, pieces=4000, width=192, layers=3, heads=6, inner=448)
COARSE = dict(train_dit.CONFIG, in_channels=vae128.Z, out_channels=vae128.Z, text_dim=TEXT.width, ffn_dim=896, num_layers=6)
FINE = dict(COARSE, patch_size=(1, 1, 1))
CONFIG = FINE if common.FINE else COARSE
MORE = 1.5  # times bf16's usual error that what is compiled may have
OBJECTS, SOMEWHERE, NOWHERE = 2, 0.85, 0.97  # see mean_error()
NEARLY = 0.1  # what is left of a sample, at most, in those with almost nothing but noise
TOKENS = 64 if common.FINE else 16  # of a frame's latents
# `noise`: mean and spread of the level's logit, and how much the log of the latent frames adds to the mean. Frames repeat each other,
# so that what moves shows through a level that hides a picture: with a half, n frames' mean keeps the noise of one.
# `nearly`: the share of clips, and half of it of pictures, with almost nothing but noise. Which way something moves shows through a level
# of 0.97 in five latent frames, so that captions are asked for it only above that.
# `lr`: Muon's steps are as large along what gradients say little about, and at twice this rate they wiped motion out (README.md).
# `lengths`: shares of clips by latent frames, where there are such. Nine frames, of which there are 3, show little of a motion.
SETTINGS = dict(lr=5e-4, steps=12000, warmup=100, decay=12000, average=0.998, weight_decay=0.01, pictures_first=0, picture_share=0.35,
                lengths={3: 0.15, 5: 0.35, 7: 0.35, 9: 0.15},
                tokens=4096 if common.FINE else 2048, captions=60000, noise=(1.0, 1.2, 0.4), nearly=0.3)
BY_THE_CLOCK = dict(save_every=2000, show_every=4000)  # steps, on a GPU, where thousands take minutes
SMOKE = dict(steps=6, warmup=2, decay=3, pictures_first=3, tokens=128, captions=1500)
PROMPTS = ["a red apple", "two dogs on a green background", "a blue car on a road", "a cat to the left of a ball",
           "three stars at night", "a large house in the snow", "a banana", "a small yellow fish in the sea",
           "赤いりんご", "a robot on a pink background", "a flat drawing of a tree", "a horse in a meadow",
           "a dog moving to the right", "a bouncing ball", "an airplane flying to the left in the sky", "a growing heart"]


def corpus(count=SETTINGS["captions"]):
    """What the tokenizer is made for."""
    stream = scenes.Stream(seed=7)
    for number in range(count):
        rng = np.random.default_rng((7, number))
        yield captions.caption(rng, stream.scene(number, 1 if number % 3 else 17)).text


def checked(weights):
    """The same; ends where they are of the other kind of token."""
    if tuple(weights["dit.patch_embedding.weight"].shape[2:]) != CONFIG["patch_size"]:
        raise SystemExit(f"these weights have a token for {'2x2 latents' if common.FINE else 'every latent'}: "
                         f"set IMAGINE_TRAIN_FINE={0 if common.FINE else 1}")
    return weights


class Compiled:
    """A model whose transformer goes through torch.compile, a minute for every shape; each is compared first."""

    def __init__(self, model):
        self.model, self.dit = model, model.dit
        self.compared = set()
        if common.DEVICE == "cpu":
            torch._dynamo.config.recompile_limit = 64  # shapes; those beyond it would run as they are, unsaid
            self.dit.compile(dynamic=False)
        else:  # a block for all: less to compile
            self.dit.compile_repeated_blocks(dynamic=True)

    def __call__(self, x, timestep, ids, mask):
        if x.shape not in self.compared:
            # The text asks for a gradient, as in training: what is compiled here serves there.
            self.compare(x, timestep, text.embed(self.model.encoder, ids, mask).detach().requires_grad_())
            self.compared.add(x.shape)
        return self.model(x, timestep, ids, mask)

    def compare(self, x, timestep, context):
        last = self.dit.proj_out.weight
        kept = last.detach().clone()
        torch.nn.init.normal_(last, std=0.05)
        weight, found = torch.randn_like(x), []
        for how, half in (("force_eager", False), ("force_eager", True), ("default", True)):  # the first in f32
            with torch.compiler.set_stance(how), torch.autocast(common.DEVICE, torch.bfloat16, enabled=half):
                out = self.dit(x, timestep, context, return_dict=False)[0].float()
            gradients = torch.autograd.grad((out * weight).sum(), list(self.dit.parameters()))
            found.append(torch.cat([g.flatten() for g in (out.detach(), *gradients)]))
        with torch.no_grad():
            last.copy_(kept)
        usual, error = (((v - found[0]).norm() / found[0].norm()).item() for v in found[1:])
        print(f"compiled for {list(x.shape)}: results and gradients are off by {error:.1e}, as they stand by {usual:.1e}", flush=True)
        if not error < MORE * usual:
            raise SystemExit("the compiled transformer computes something else; train without --compile")


class Trainer(train_dit.Trainer):
    name = "dit128"

    live = None  # scenes drawn meanwhile

    def __init__(self, args, settings):
        if args.drawers:
            self.drawers = live.Drawers(args.drawers, live.captioned(text.tokenizer(args.state, TEXT, "tokenizer128.json"), args.seed))
        often = args.smoke or not args.minutes or args.device == "cpu"
        settings = dict(settings, **({"lr": args.rate} if args.rate else {}), **({} if often else BY_THE_CLOCK))
        super().__init__(args, settings)
        if args.compile:
            self.forward = Compiled(self.model)

    def tokenizer(self):
        return text.tokenizer(self.args.state, TEXT, "tokenizer128.json", lambda: corpus(self.s["captions"]))

    def new_model(self):
        return train_dit.Model(self.tok, TEXT, CONFIG)

    def begin(self):
        """From the weights that carry.py took along, else grown from the 64x64 model's."""
        start = common.load(self.args.state / "start128.pt")
        if not start:
            model = train_dit.Model(self.tok, TEXT, COARSE)
            grow.model(model, self.tok, train_vae128.small_pack(self.args.state), *latents128.statistics(self.args.state))
            start = dict(average=model.state_dict())
        weights = grow.finer(start["average"], vae128.Z) if common.FINE else start["average"]
        self.model.load_state_dict(checked(weights), strict=False)

    def load_data(self):
        self.optimisers.position = common.Clock(self.args.minutes, self.s["steps"])
        self.vae = latents128.trained_vae(self.args.state)
        if self.args.drawers:
            self.live = live.Latents(self.drawers, self.vae, self.args.state)
            self.mean, self.std = self.live.mean, self.live.std
            return
        sets = latents128.load(self.args.state)
        self.mean, self.std = latents128.statistics(self.args.state)
        self.sets = {k: (x, shown, *self.token_table(words)) for k, (x, shown, words) in sets.items()}

    def some_clips(self, rng, keys):
        """The key of clips of one of the lengths."""
        keys = sorted(k for k in keys if k[0] == "clip")
        shares = np.array([self.s["lengths"].get(k[1], 0.1) for k in keys])
        return keys[rng.choice(len(keys), p=shares / shares.sum())]

    def token_table(self, words):
        """Ids and masks [n, wordings, length] as narrow integers."""
        ids, mask = text.tokens(self.tok, [c for some in words for c in some])
        shape = -1, latents128.WORDINGS, TEXT.length
        return ids.to(torch.int16).view(shape), mask.to(torch.int8).view(shape)

    def batch(self, rng):
        pictures = self.position() < self.s["pictures_first"] or rng.random() < self.s["picture_share"]
        if self.live and self.step % live.TAKE_EVERY == 0:
            self.live.take()
        x, shown, ids, mask = (self.some_live if self.live else self.some_stored)(rng, pictures)
        wording = torch.randint(latents128.WORDINGS, (len(x),), generator=self.random, device=common.DEVICE)
        every, shape = torch.arange(len(x), device=common.DEVICE), (1, -1, 1, 1, 1)
        x = (x.float() - self.mean.view(shape)) / self.std.view(shape)
        return x, ids[every, wording].long(), mask[every, wording].long(), shown.float()

    def mean_error(self, squares, sigma, shown):
        """Errors where objects are count OBJECTS times more, up to levels of noise at which the sample says where they are: beyond these
        they would be drawn larger and in several places."""
        more = OBJECTS * ((NOWHERE - sigma) / (NOWHERE - SOMEWHERE)).clamp(0, 1)
        return (squares * (1 + more * shown[:, None])).mean()

    def noise_levels(self, n, depth):
        share = self.s["nearly"] * (0.5 if depth == 1 else 1)
        drawn = torch.rand(n, 1, 1, 1, 1, generator=self.random, device=common.DEVICE)
        highest = 1 - NEARLY * (drawn / share).square()  # of those below the share, which are so spread evenly
        return torch.where(drawn < share, highest, super().noise_levels(n, depth))

    def samples(self, depth):
        return max(1, self.args.times * self.s["tokens"] // (TOKENS * depth))

    def some_stored(self, rng, pictures):
        key = ("picture", 1) if pictures else self.some_clips(rng, self.sets)
        rows = torch.from_numpy(rng.integers(len(self.sets[key][0]), size=self.samples(key[1])))
        return (v[rows].to(common.DEVICE) for v in self.sets[key])

    def some_live(self, rng, pictures):
        key = ("picture", 1) if pictures else self.some_clips(rng, self.live.pools)
        return self.live.pools[key].some(self.random, self.samples(key[1])).values()

    def run(self):
        super().run()
        if self.live:
            self.live.drawers.stop()

    def drawn(self, prompts, frames):
        return sample.sample(self.shown.dit, self.shown.encoder, self.tok, prompts, frames)

    def show(self):
        self.average.store_into(self.shown)
        frames = 1 if self.position() < self.s["pictures_first"] + 100 else 13
        with common.autocast():
            z = self.drawn(PROMPTS, frames)
            out = sample.frames_of(self.vae, z, self.mean, self.std, vae128.decode)
        out = out[:, :, ::4] if frames > 1 else out
        sample.sheet(out, self.args.state / f"{self.name}-{self.step:05d}.png", 8 if frames == 1 else 2)


def wait():
    if common.DEVICE != "cpu":
        torch.cuda.synchronize()


def profiled(trainer, warm=40, steps=10):
    """Prints what a step takes by the clock, then where the time of some steps goes."""
    for _ in range(warm):
        trainer.one_step()
    wait()
    begin = time.monotonic()
    for _ in range(steps):
        trainer.one_step()
    wait()
    print(f"{steps} steps, {1e3 * (time.monotonic() - begin) / steps:.1f} ms each", flush=True)
    activities, order = [torch.profiler.ProfilerActivity.CPU], "self_cpu_time_total"
    if common.DEVICE != "cpu":
        activities, order = [*activities, torch.profiler.ProfilerActivity.CUDA], "self_device_time_total"
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(steps):
            trainer.one_step()
        wait()
    for sort in dict.fromkeys((order, "self_cpu_time_total")):
        print(found.key_averages().table(sort_by=sort, row_limit=25, max_name_column_width=60), flush=True)


def arguments(description):
    parser = common.for_a_gpu(common.arguments(description))
    parser.add_argument("--seed", type=int, default=1, help="of the scenes that are drawn meanwhile (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="learning rate (default: the stage's own)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile: a quarter faster, if there is a C++ compiler")
    parser.add_argument("--workers", type=int, default=1, help="processes, with a batch and a core each (default: 1)")
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("--profile", action="store_true", help="train nothing that is kept: print where a step's time goes")
    args = parser.parse_args()
    common.prepare(args)
    torch.manual_seed(0)
    trainer = Trainer(args, dict(SETTINGS, **(SMOKE if args.smoke else {})))
    if not args.profile:
        return trainer.run()
    profiled(trainer, *([2, 2] if args.smoke else []))
    if trainer.live:
        trainer.live.drawers.stop()


if __name__ == "__main__":
    main()
