# SPDX-License-Identifier: MIT
"""Trains the VAE: on pictures as a 2-D network, on clips, where its temporal taps awake, then the decoder alone.

The last stage leaves the encoder as it is, so that it can run beside the training of the transformer.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import common
import data
import vae as fast

SPREAD = 0.05  # of the noise on the latents while training, so that the decoder forgives small errors
SIZE_COST = 1e-3  # on squared latents: without it they would grow until the noise vanished
STAGES = {
    "pictures": dict(batch=12, steps=1750, lr=1.5e-3, warmup=60, decay=1, average=0.995),
    "clips": dict(batch=4, steps=1300, lr=1e-3, warmup=30, decay=1000, average=0.995),
    "decoder": dict(batch=4, steps=1250, lr=1e-3, warmup=30, decay=1200, average=0.995),
}
SMOKE = dict(batch=4, steps=6, warmup=2, decay=3)
SAVE_EVERY, MEASURE_EVERY = 250, 250


class Source:
    """Batches of pictures or clips: named objects as the DiT will see them, and other cut-outs."""

    def __init__(self):
        self.objects = data.Objects()
        self.others = data.other_cutouts(data.shared_folder(), held_out=False)
        self.held_out = data.other_cutouts(data.shared_folder(), held_out=True)

    def pictures(self, rng, count, others=None):
        """Pictures [count, 3, 64, 64]; a third of them show any cut-out on any ground."""
        free = count // 3 if others is None else count
        scenes = [data.Scene(rng, self.objects) for _ in range(count - free)]
        path = np.zeros((count, 1, 4), np.float32)
        for i, s in enumerate(scenes):
            path[i] = s.path[rng.integers(data.FRAMES)]
        path[count - free:] = free_placement(rng, free)
        pool = self.others if others is None else others
        free_pictures = pool[torch.from_numpy(rng.integers(len(pool), size=free))]
        pictures = torch.cat([self.objects.pictures[[s.picture for s in scenes]], free_pictures])
        ground = torch.cat([data.background_rgb(scenes), torch.from_numpy(rng.random((free, 3))).float()])
        return data.render(pictures, torch.from_numpy(path), ground)[:, :, 0]

    def clips(self, rng, count):
        return data.render_scenes(self.objects, [data.Scene(rng, self.objects) for _ in range(count)])


def free_placement(rng, count):
    size = rng.uniform(30, 58, count)
    mirror = rng.choice([-1, 1], count)
    x, y = rng.uniform(24, 40, (2, count))
    return np.stack([x, y, size * mirror, size], 1)[:, None]


def loss_of(vae, x, noise, encoder=True):
    """Error of pixels and of their gradients, with a little noise on the latents."""
    with torch.set_grad_enabled(encoder):
        mean = fast.encode(vae, x)[0]
    y = fast.decode(vae, mean + SPREAD * noise)
    d = y - x
    pixels = d.abs().mean() + d.square().mean()
    edges = (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    size = mean.square().mean()
    return pixels + 0.5 * edges + SIZE_COST * size, torch.stack([d.square().mean(), size]).detach()


def psnr(mse):
    return 10 * math.log10(4 / mse)


@torch.no_grad()
def reconstruct(vae, x):
    with common.autocast():
        return fast.decode(vae, fast.encode(vae, x)[0]).clamp(-1, 1)


def measure(vae, source, stage, path):
    """PSNR on fixed scenes and on held-out cut-outs; a sheet of originals above reconstructions."""
    rng = np.random.default_rng(12345)
    scenes = source.pictures(rng, 48, source.objects.pictures) if stage == "pictures" else source.clips(rng, 12)
    held = source.pictures(rng, 48, source.held_out)
    back = reconstruct(vae, scenes)
    sheet(scenes, back, path)
    report = {"scenes": psnr(F.mse_loss(back, scenes).item()),
              "held-out": psnr(F.mse_loss(reconstruct(vae, held), held).item())}
    return ", ".join(f"{k} {v:.2f} dB" for k, v in report.items())


def sheet(x, y, path):
    if x.ndim == 5:
        x, y = (v.transpose(1, 2).flatten(0, 1)[:54] for v in (x, y))
    width = 18 if len(x) > 48 else 16
    rows = [torch.cat([a, b], 1) for a, b in zip(x, y)]
    rows = [torch.cat(rows[i:i + width], 2) for i in range(0, len(rows) - width + 1, width)]
    image = torch.cat(rows, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(image.numpy()).save(path)


def starting_weights(state, stage):
    before = {"clips": "pictures", "decoder": "clips"}[stage]
    saved = common.load(state / f"vae-{before}.pt")
    if saved is None:
        raise SystemExit(f"{state}: no weights of the stage before; run --stage {before} first")
    return saved["average"]


class Trainer:
    def __init__(self, args, stage, settings):
        self.args, self.stage, self.s = args, stage, settings
        self.path = args.state / f"vae-{stage}.pt"
        self.vae = fast.new_vae()
        saved = common.load(self.path)
        if saved:
            self.vae.load_state_dict(saved["model"])
        elif stage != "pictures":
            self.vae.load_state_dict(starting_weights(args.state, stage), strict=False)
        if stage == "decoder":
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        fast.channels_last(self.vae)
        matrices, others = common.split(self.vae.named_parameters())
        self.optimisers = common.Optimisers(matrices, others, settings["lr"], settings["steps"],
                                            settings["warmup"], settings["decay"])
        self.average = common.Average(self.vae, settings["average"])
        self.step = 0
        if saved:
            self.optimisers.load(saved["optimisers"])
            self.average.values, self.step = saved["average"], saved["step"]
        self.meter = common.Meter(args.state / f"vae-{stage}.log", saved and saved["meter"])
        self.source = Source()

    def batch(self, step):
        rng = np.random.default_rng([step, list(STAGES).index(self.stage)])
        if self.stage == "pictures":
            x = self.source.pictures(rng, self.s["batch"])
            return x.contiguous(memory_format=torch.channels_last), step
        x = self.source.clips(rng, self.s["batch"])
        return x.contiguous(memory_format=torch.channels_last_3d), step

    def one_step(self):
        x, step = self.batch(self.step)
        shape = (x.shape[0], 16, *([1 + (x.shape[2] - 1) // 4] if x.ndim == 5 else []),
                 x.shape[-2] // 8, x.shape[-1] // 8)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        with common.autocast():
            loss, parts = loss_of(self.vae, x, noise, self.stage != "decoder")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimisers.apply(step)
        self.average.update(self.vae, step)
        self.meter.samples += len(x)
        self.step += 1
        return loss.item(), parts

    def save(self):
        common.save(self.path, model=self.vae.state_dict(), average=self.average.values, step=self.step,
                    optimisers=self.optimisers.state(), meter=self.meter.state())

    def report(self):
        shown = fast.new_vae()
        self.average.store_into(shown)
        path = self.args.state / f"vae-{self.stage}-{self.step:05d}.png"
        self.meter.say(f"step {self.step}, {measure(shown, self.source, self.stage, path)}")

    def run(self):
        while self.step < self.optimisers.total:
            if common.wants_to_finish(self.args.state, f"vae-{self.stage}"):
                self.optimisers.finish(self.step)
            loss, parts = self.one_step()
            if self.step % 50 == 0:
                self.meter.say(f"step {self.step}, loss {loss:.4f}, batch {psnr(parts[0].item()):.2f} dB, "
                               f"latents squared {parts[1].item():.3f}")
            if self.step % MEASURE_EVERY == 0 or self.step == self.optimisers.total:
                self.report()
            if self.step % SAVE_EVERY == 0 or self.step == self.optimisers.total:
                self.save()


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--stage", choices=STAGES, required=True, help="which part to train")
    args = parser.parse_args()
    common.prepare(args)
    torch.manual_seed(0)
    settings = dict(STAGES[args.stage], **(SMOKE if args.smoke else {}))
    if args.smoke:
        fast.check(fast.new_vae())
    Trainer(args, args.stage, settings).run()


if __name__ == "__main__":
    main()
