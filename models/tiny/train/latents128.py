# SPDX-License-Identifier: MIT
"""Encodes captioned scenes of 128x128 once, as shards of latents: pictures and clips of every length.

A shard `latents128/KIND-NNNN.safetensors` holds `latents` f16 [n, 32, t, 8, 8], not normalised, and `objects` f16 [n, t, 8, 8], where
they show objects; `.json` beside it the captions, WORDINGS of each scene; `statistics.json` what to normalise with. Shards that are
there are left alone, so a stopped run goes on; more can be added later.
"""

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import captions
import common
import motions
import render
import scenes
import vae128 as fast

WORDINGS = 4
PICTURES, CLIPS = 1024, 160  # of a shard; its clips have all one length
SHARDS = {"picture": 48, "clip": 96}
LENGTHS = (9, 17, 9, 25, 17, 33)  # frames of the shards of clips in turn
SEED = 48
STEP = 16 if common.FINE else 32  # pixels, of sizes and places at rest: those of a token
CELL, USUAL, LEAST = 16, 16, 4  # pixels of a latent's side; latents under an object that count once, and under the smallest that counts more


def trained_vae(state):
    saved = next((s for s in (common.load(state / f"vae128-{stage}.pt") for stage in ("whole", "decoder", "clips", "pictures")) if s),
                 None)
    if saved is None:
        raise SystemExit(f"{state}: no trained VAE; run train_vae128.py first")
    vae = fast.new_vae()
    vae.load_state_dict(saved["average"], strict=False)
    return vae.to(common.DEVICE).eval().requires_grad_(False)


def frames_of_shard(kind, number):
    return 1 if kind == "picture" else LENGTHS[number % len(LENGTHS)]


def encoded_frames(vae, x):
    """Latents of frames [n, 3, t, h, w]; one frame goes through the VAE as a picture."""
    if x.shape[2] == 1:
        return fast.encode(vae, x[:, :, 0].contiguous(memory_format=torch.channels_last))[:, :, None]
    return fast.encode(vae, x.contiguous(memory_format=torch.channels_last_3d))


@torch.inference_mode()
def encoded(vae, made, store):
    with common.autocast():
        return encoded_frames(vae, render.batch(made, store))


def covered(middle, size):
    """The share of each latent's side that lies between the ends, [t, 8]."""
    edges = np.arange(0, motions.SIDE + CELL, CELL)
    low, high = (middle - size / 2)[:, None], (middle + size / 2)[:, None]
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, CELL) / CELL


def objects_of(scene):
    """How much of an object each latent shows, [t, 8, 8]: 1 where it lies under a box of USUAL latents, more under smaller ones and less
    under larger, by the root of their number. A latent after the first shows four frames."""
    zoom, shift = motions.camera(scene.motion, scene.frames)
    found = 0
    for path in scene.paths:
        across = covered((path.x - 64) * zoom + 64 - shift, path.width * zoom)
        down = covered((path.y - 64) * zoom + 64, path.height * zoom)
        each = down[:, :, None] * across[:, None, :]
        seen = each * path.opacity[:, None, None]
        each, seen = (np.concatenate([v[:1], v[1:].reshape(-1, 4, 8, 8).max(1)]) for v in (each, seen))
        found = found + seen * np.sqrt(USUAL / np.maximum(each.sum((1, 2), keepdims=True), LEAST))
    return torch.from_numpy(found)


def make_shard(vae, stream, path, kind, number, count):
    frames = frames_of_shard(kind, number)
    first = (number * 2 + (kind == "clip")) * 65536
    together = max(2, 32 // frames)  # one clip at a time takes a quarter longer
    latents, shown, words = [], [], []
    for at in range(0, count, together):
        numbers = range(at, min(at + together, count))
        made = [stream.scene(first + i, frames) for i in numbers]
        latents.append(encoded(vae, made, stream.store).half())
        shown += [objects_of(s).half() for s in made]
        words += [[captions.caption(np.random.default_rng((SEED, first + i, w)), s).text for w in range(WORDINGS)]
                  for s, i in zip(made, numbers)]
    path.with_suffix(".json").write_text(json.dumps(words, ensure_ascii=False))
    part = path.with_suffix(".part")
    save_file({"latents": torch.cat(latents).contiguous(), "objects": torch.stack(shown)}, part)
    part.replace(path)


def read_shard(path):
    """{"latents", "objects"} of a file."""
    shard = load_file(path)
    if "objects" not in shard:
        raise SystemExit(f"{path} does not say where objects are; remove it and run latents128.py again")
    return shard


def load(state):
    """{(kind, latent frames): (latents f16 [n, 32, t, 8, 8], objects f16 [n, t, 8, 8], captions)} of all shards."""
    found = {}
    for path in sorted((state / "latents128").glob("*.safetensors")):
        shard = read_shard(path)
        key = path.stem.split("-")[0], shard["latents"].shape[2]
        x, shown, words = found.setdefault(key, ([], [], []))
        x.append(shard["latents"])
        shown.append(shard["objects"])
        words.extend(json.loads(path.with_suffix(".json").read_text()))
    return {k: (torch.cat(x), torch.cat(shown), words) for k, (x, shown, words) in found.items()}


def statistics(state):
    """Mean and spread of every channel, pictures and clips counting as much as they have frames. Computed once from the
    shards that there are then: a transformer is bound to them."""
    path = state / "latents128" / "statistics.json"
    if not path.exists():
        flat = torch.cat([x.float().transpose(0, 1).flatten(1) for x, *_ in load(state).values()], 1)
        write_statistics(path.parent, flat.mean(1), flat.std(1))
    found = json.loads(path.read_text())
    return torch.tensor(found["mean"], device=common.DEVICE), torch.tensor(found["std"], device=common.DEVICE)


def write_statistics(folder, mean, std):
    (folder / "statistics.json").write_text(json.dumps(dict(mean=mean.tolist(), std=std.tolist())))


def main():
    parser = common.arguments(__doc__)
    for kind, count in SHARDS.items():
        parser.add_argument(f"--{kind}-shards", type=int, default=count, help="default: %(default)s")
    args = parser.parse_args()
    common.prepare(args)
    folder = args.state / "latents128"
    folder.mkdir(exist_ok=True)
    vae, stream = trained_vae(args.state), scenes.Stream(SEED, step=STEP)
    meter = common.Meter(args.state / "latents128.log")
    for kind in SHARDS:
        for number in range(1 if args.smoke else getattr(args, f"{kind}_shards")):
            path = folder / f"{kind}-{number:04d}.safetensors"
            if path.exists():
                continue
            count = 4 if args.smoke else PICTURES if kind == "picture" else CLIPS
            make_shard(vae, stream, path, kind, number, count)
            meter.samples += count
            meter.say(path.stem)
    statistics(args.state)


if __name__ == "__main__":
    main()
