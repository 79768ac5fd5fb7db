# SPDX-License-Identifier: MIT
"""Trains the 128x128 model's VAE, grown from the 64x64 model's: on pictures as a 2-D network, on clips, then the decoder alone.

The first 16 channels of the latents are kept near those of the 64x64 model's VAE, so that its transformer goes on with them.
`decoder` leaves the encoder as it is, so that it can run beside the training of the transformer. A stage goes on from its own
checkpoint, else from the one before. `whole` is for a GPU: all of it, on pictures and clips, for some
minutes, wherever the latents go; moved.py takes a transformer along.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

import common
import data
import live
import pixels
import render
import scenes
import vae128 as fast
from train_vae import psnr, sheet

SPREAD = 0.05  # of the noise on the latents while training, so that the decoder forgives small errors
KEPT_COST = 0.5  # on the squared difference between the first channels and the 64x64 model's
SIZE_COST = 1e-3  # on squared latents: without it they would grow until the noise vanished
STAGES = {
    "pictures": dict(before=None, batch=12, frames=1, steps=4000, lr=1.5e-3, warmup=60, decay=3500, average=0.998),
    "clips": dict(before="pictures", batch=2, frames=13, steps=2200, lr=1e-3, warmup=30, decay=2000, average=0.998),
    "decoder": dict(before="clips", batch=2, frames=13, steps=3000, lr=1e-3, warmup=30, decay=2900, average=0.998),
    "whole": dict(before="decoder", batch=2, frames=13, steps=3000, lr=1e-3, warmup=30, decay=2700, average=0.998, squares=8),
}
KEPT = "pictures", "clips"  # stages that keep the first channels
SPREAD_BEFORE = "clips", "whole"  # stages that begin with vae128.spread()
SMOKE = dict(batch=2, steps=4, warmup=2, decay=2)
SAVE_EVERY, MEASURE_EVERY = 250, 500
PICTURES, CLIPS = 80_000, 12_000  # drawn ones kept on a GPU


def scene_clips(stream, first, count, frames, without=()):
    """Scenes as the transformer will see them, but for those with the cut-outs `without`: [count, 3, frames, 128, 128]."""
    made = []
    for number in range(first, first + count):
        scene = stream.scene(number, frames)
        while any(item.cutout.file in without for item in scene.items):
            number += 1 << 32
            scene = stream.scene(number, frames)
        made.append(scene)
    return render.batch(made, stream.store)


def loss_of(vae, x, noise, kept=None, squares=2):
    """Error of pixels and of their gradients, fine and at half the size, with a little noise on the latents. `kept`: what their
    first channels are to stay near, if anything."""
    with torch.set_grad_enabled(vae.quant_conv.weight.requires_grad):
        mean = fast.encode(vae, x)
    d = fast.decode(vae, mean + SPREAD * noise) - x
    pixels_error = d.abs().mean() + squares * d.square().mean()
    edges = (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    if d.ndim == 5:
        edges = edges + 0.5 * (d[:, :, 1:] - d[:, :, :-1]).abs().mean()
    size = mean.square().mean()
    moved = F.mse_loss(mean[:, :fast.OLD_Z], kept) if kept is not None else torch.zeros(())
    loss = pixels_error + 0.5 * edges + SIZE_COST * size + KEPT_COST * moved
    return loss, torch.stack([d.square().mean(), size, moved.to(size.device)]).detach()


@torch.no_grad()
def reconstruct(vae, x):
    with common.autocast():
        return torch.cat([fast.decode(vae, fast.encode(vae, part.to(common.DEVICE))).clamp(-1, 1).cpu() for part in x.split(16)])


def mean_psnr(x, y):
    """The mean of each picture's or clip's own."""
    return np.mean([psnr(F.mse_loss(a, b).item()) for a, b in zip(x, y)])


def measure(vae, source, held, frames, path):
    """Cut-outs that training never saw, on plain and on drawn grounds; scenes whose combinations it never saw; the
    photographs. A sheet of originals above reconstructions."""
    rng = np.random.default_rng(12345)
    count = 48 if frames == 1 else 8
    sets = {"plain": source.clips(rng, count, frames, held=True, kinds=("plain",), weights=(1,)),
            "drawn": source.clips(rng, count, frames, held=True, kinds=("gradient", "shapes"), weights=(0.4, 0.6))}
    sets["scenes"] = scene_clips(held, 0, count, frames)
    sets["photos"] = source.photos[:, :, None]
    if frames == 1:
        sets = {k: v[:, :, 0] for k, v in sets.items()}
    back = {k: reconstruct(vae, v) for k, v in sets.items()}
    if frames == 1:
        sheet(*(torch.cat([s["plain"][:12], s["drawn"][:16], s["photos"]]) for s in (sets, back)), path)
    else:
        sheet(*(torch.cat([s[k][:2, :, ::3] for k in ("plain", "drawn", "scenes")]) for s in (sets, back)), path)
    report = ", ".join(f"{k} {mean_psnr(sets[k], back[k]):.2f} dB" for k in sets)
    if frames > 1:
        still = sets["drawn"][:, :, :1].expand(-1, -1, frames, -1, -1)
        flicker = reconstruct(vae, still).diff(dim=2).abs().mean().item() * 127.5
        report += f", flicker {flicker:.3f}/255"
    return report


@torch.no_grad()
def channels(vae, frames):
    """How many of the latents' axes the training's noise leaves something of: their eigenvalues, those above four times its."""
    x = torch.cat([frames.some((1 << 31) + k, 48, 1)[:, :, 0] for k in range(8)]).to(common.DEVICE)
    flat = torch.cat([fast.encode(vae, part) for part in x.split(48)]).transpose(0, 1).flatten(1)
    sizes = torch.linalg.eigvalsh(torch.cov(flat))
    return f"{int((sizes > 4 * SPREAD ** 2).sum())} of {len(sizes)} eigenvalues of the latents above {4 * SPREAD ** 2:.2f}"


def small_pack(state):
    """The 64x64 model that all of this grows from."""
    folder = state / "pack64"
    if not folder.is_dir():
        raise SystemExit(f"{folder}: not there; train the 64x64 model first, or copy a pack of it here")
    return folder


def small_vae(state):
    vae = AutoencoderKLWan.from_pretrained(small_pack(state) / "vae", torch_dtype=torch.float32)
    return vae.to(common.DEVICE).eval().requires_grad_(False)


def started(state, stage):
    """A VAE as the stage before left it, or as it grows from the 64x64 model's."""
    before = STAGES[stage]["before"]
    saved = before and common.load(state / f"vae128-{before}.pt")
    if not saved:
        return fast.grown(small_vae(state)).to(common.DEVICE)
    vae = fast.new_vae()
    vae.load_state_dict(saved["average"], strict=False)
    return vae.to(common.DEVICE)


class Frames:
    """What the VAE learns on: two batches of three are what the transformer will see, the third has anything."""

    def __init__(self, state, stage):
        self.stage = list(STAGES).index(stage)
        self.source = pixels.Source(data.shared_folder(), state / "cutouts.pt")
        mixture = {"core": 0.6, "any": 0.4}
        self.scenes = scenes.Stream(480 + self.stage, mixture=mixture)
        self.held = scenes.Stream(481, self.scenes.catalogue, self.scenes.store, held=True, mixture=mixture)

    def some(self, step, count, frames):
        if step % 3:
            return scene_clips(self.scenes, step * count, count, frames, self.source.held_files)
        return self.source.clips(np.random.default_rng([step, self.stage]), count, frames)

    def blocks(self, frames):
        """For live.Drawers: blocks of pictures and of clips in turn."""
        def blocks(rank):
            for number in itertools.count(rank << 32):
                yield dict(x=live.as_bytes(self.some(number // 2, *((48, 1) if number % 2 else (8, frames)))))
        return blocks


class Trainer:
    def __init__(self, args, stage, settings):
        self.args, self.stage, self.s = args, stage, settings
        self.frames = Frames(args.state, stage)
        self.drawers = live.Drawers(args.drawers, self.frames.blocks(settings["frames"])) if args.drawers else None
        self.path = args.state / f"vae128-{stage}.pt"
        self.small = small_vae(args.state) if stage in KEPT else None
        self.vae = started(args.state, stage)
        saved = common.load(self.path)
        if saved:
            self.vae.load_state_dict(saved["model"])
        elif stage in SPREAD_BEFORE:
            fast.spread(self.vae, self.examples())
        if stage == "decoder":
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        fast.plain.channels_last(self.vae)
        matrices, others = common.split(self.vae.named_parameters())
        self.optimisers = common.Optimisers(matrices, others, settings["lr"], settings["steps"],
                                            settings["warmup"], settings["decay"])
        self.optimisers.position = common.Clock(args.minutes, settings["steps"])
        self.average = common.Average(self.vae, settings["average"])
        self.random = torch.Generator(common.DEVICE)
        self.step = 0
        if saved:
            self.optimisers.load(saved["optimisers"])
            self.average.values, self.step = saved["average"], saved["step"]
        self.meter = common.Meter(args.state / f"vae128-{stage}.log", saved and saved["meter"])
        self.pools = {1: live.Pool(PICTURES), settings["frames"]: live.Pool(CLIPS)}
        while self.drawers and not all(p.filled for p in self.pools.values()):
            self.take(wait=True)

    @torch.no_grad()
    def examples(self):
        """Latents of some pictures."""
        return torch.cat([fast.encode(self.vae, self.frames.some((1 << 30) + k, 48, 1)[:, :, 0].to(common.DEVICE)) for k in range(8)])

    def take(self, wait=False):
        block = self.drawers.next(wait)
        if block:
            self.pools[block["x"].shape[2]].add(block)

    def shape(self):
        """Samples and frames of this step: stages after the first have as many batches of pictures as of clips."""
        count, frames = self.args.times * self.s["batch"], self.s["frames"]
        return (count * 6, 1) if self.stage != "pictures" and self.step % 2 else (count, frames)

    def batch(self):
        count, frames = self.shape()
        if self.drawers:
            self.take()
            x = live.as_frames(self.pools[frames].some(self.random.manual_seed(self.step), count)["x"])
        else:
            x = self.frames.some(self.step, count, frames).to(common.DEVICE)
        if frames == 1:
            return x[:, :, 0].contiguous(memory_format=torch.channels_last)
        return x.contiguous(memory_format=torch.channels_last_3d)

    def one_step(self):
        x = self.batch()
        outer = [x.shape[0], fast.Z] + ([1 + (x.shape[2] - 1) // fast.TIME] if x.ndim == 5 else [])
        noise = torch.randn([*outer, x.shape[-2] // fast.SPACE, x.shape[-1] // fast.SPACE], device=x.device,
                            generator=self.random.manual_seed(self.step))
        with common.autocast():
            with torch.no_grad():
                kept = fast.plain.encode(self.small, fast.halved(x))[0] if self.small else None
            loss, parts = loss_of(self.vae, x, noise, kept, self.s.get("squares", 2))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimisers.apply(self.step)
        self.average.update(self.vae, self.step)
        self.meter.samples += len(x)
        self.step += 1
        return loss.detach(), parts

    def save(self):
        common.save(self.path, model=self.vae.state_dict(), average=self.average.values, step=self.step,
                    optimisers=self.optimisers.state(), meter=self.meter.state())

    def report(self):
        if self.drawers:  # there may be no more than a part of the shared data
            return
        shown = fast.new_vae().to(common.DEVICE)
        self.average.store_into(shown)
        path = self.args.state / f"vae128-{self.stage}-{self.step:05d}.png"
        self.meter.say(f"step {self.step}, {measure(shown, self.frames.source, self.frames.held, self.s['frames'], path)}")

    def run(self):
        last = self.optimisers.position(self.step) >= self.optimisers.total
        while not last:
            if common.wants_to_finish(self.args.state, f"vae128-{self.stage}"):
                self.optimisers.finish(self.step)
            loss, parts = self.one_step()
            if self.step % 50 == 0:
                self.meter.say(f"step {self.step}, loss {loss:.4f}, batch {psnr(parts[0].item()):.2f} dB, "
                               f"latents squared {parts[1].item():.3f}, first channels off by {parts[2].item():.4f}")
            last = self.optimisers.position(self.step) >= self.optimisers.total
            if self.step % MEASURE_EVERY == 0 or last:
                self.report()
            if self.step % SAVE_EVERY == 0 or last:
                self.save()
        if self.drawers:
            self.drawers.stop()


def measure_only(state, stage):
    """What the stage's weights make of pictures and of clips."""
    frames, vae = Frames(state, stage), fast.new_vae().to(common.DEVICE).eval()
    saved = common.load(state / f"vae128-{stage}.pt")
    if not saved:
        raise SystemExit(f"{state}: no weights of this stage; train it first")
    vae.load_state_dict(saved["average"], strict=False)
    print(f"step {saved['step']}, {channels(vae, frames)}", flush=True)
    for count in (1, STAGES["clips"]["frames"]):
        path = state / f"vae128-{stage}-measured-{count}.png"
        print(f"step {saved['step']}, frames {count}: {measure(vae, frames.source, frames.held, count, path)}", flush=True)


def main():
    parser = common.for_a_gpu(common.arguments(__doc__))
    parser.add_argument("--stage", choices=STAGES, required=True, help="which part to train")
    parser.add_argument("--measure", action="store_true", help="train nothing, measure the stage's weights")
    args = parser.parse_args()
    common.prepare(args)
    if args.measure:
        return measure_only(args.state, args.stage)
    torch.manual_seed(0)
    settings = dict(STAGES[args.stage], **(SMOKE if args.smoke else {}))
    if args.smoke and args.stage == "pictures":
        fast.check(fast.grown(small_vae(args.state)))
    Trainer(args, args.stage, settings).run()


if __name__ == "__main__":
    main()
