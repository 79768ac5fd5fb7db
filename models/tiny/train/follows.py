# SPDX-License-Identifier: MIT
"""How much the captions matter to the 128x128 model's transformer, by noise level: its loss on pictures with their captions,
with empty ones, with those of other pictures, and with the noun alone swapped for another core object's; or, of clips, with the
direction of their motion turned round.

Where a swapped noun costs nothing, objects are not being learnt, whatever the loss does; and so with directions.

--where prints the loss of latents that show an object, and of the others, with all captions right.

--motion asks of pure noise, before any training too: how far two captions' predictions are apart in what changes over the frames,
of the transformer, of what it grows from and of the 64x64 model itself.
"""

import json
import re

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

import common
import grow
import latents128
import objects
import sample
import text
import train_dit
import train_dit128
import train_vae128
import vae128

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
SHOWN = 0.2  # of an object, by latents128.objects_of()
LONGEST = 60  # characters of a caption, so that the noun is much of it
OPPOSITE = {a: b for pair in (("left", "right"), ("up", "down"), ("clockwise", "counterclockwise")) for a, b in (pair, pair[::-1])}
MOTIONS = {"right or left": ("moving to the right", "moving to the left"), "growing or still": ("growing", "standing still"),
           "bouncing or still": ("bouncing", "standing still")}
THINGS = ("a red apple", "a dog", "a yellow car", "a blue balloon", "a cat", "a robot", "a green fish", "a house")
WAY = re.compile(r"\b((?:mov|slid|glid|driv|fly|hopp|spinn|rotat|turn)ing (?:slowly |quickly )?(?:to the )?)(\w+)\b")


def swapped(rng, names, caption):
    """The caption with another noun; None unless it names just one core object."""
    found = [n for n in names if re.search(rf"\b{n}\b", caption)]
    if len(found) != 1 or len(caption) > LONGEST:
        return None
    other = names[rng.integers(len(names))]
    return re.sub(rf"\b{found[0]}\b", other, caption) if other != found[0] else None


def turned(caption):
    """The caption with its motion's direction turned round; None unless it names one."""
    found = WAY.search(caption)
    return WAY.sub(found[1] + OPPOSITE[found[2]], caption) if found and found[2] in OPPOSITE else None


def examples(state, kind, shard, count):
    """Latents, their captions, and the same with other nouns or, of clips, with directions turned round."""
    path = state / "latents128" / f"{kind}-{shard:04d}"
    words = json.loads(path.with_suffix(".json").read_text())
    names = sorted((o.name for o in objects.Catalogue().core), key=len, reverse=True)
    rng, rows, right, wrong = np.random.default_rng(0), [], [], []
    for row, some in enumerate(words):
        pairs = [(c, swapped(rng, names, c) if kind == "picture" else turned(c)) for c in some]
        pair = next((p for p in pairs if p[1]), None)
        if pair and len(rows) < count:
            rows.append(row)
            right.append(pair[0])
            wrong.append(pair[1])
    x = latents128.load_file(path.with_suffix(".safetensors"))["latents"][rows].float()
    mean, std = latents128.statistics(state)
    return (x - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1), right, wrong


@torch.inference_mode()
def squares(model, tok, x, captions, level):
    """The mean squared error of each latent's velocity, [n, t, 8, 8]; the noise is always the same."""
    ids, mask = text.tokens(tok, captions)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for k in range(0, len(x), 32):
        clean, n = x[k:k + 32], noise[k:k + 32]
        t = torch.full((len(clean),), level * 1000)
        with common.autocast():
            v = model((1 - level) * clean + level * n, t, ids[k:k + 32], mask[k:k + 32])
        found.append((v - (n - clean)).square().mean(1))
    return torch.cat(found)


def losses(*arguments):
    return squares(*arguments).flatten(1).mean(1)


def where(state, model, tok, kind, shard, count):
    """Prints the loss where objects are, and elsewhere."""
    path = state / "latents128" / f"{kind}-{shard:04d}"
    found = latents128.read_shard(path.with_suffix(".safetensors"))
    mean, std = (v.view(1, -1, 1, 1, 1) for v in latents128.statistics(state))
    x, there = (found["latents"][:count].float() - mean) / std, found["objects"][:count] > SHOWN
    captions = [some[0] for some in json.loads(path.with_suffix(".json").read_text())[:count]]
    print(f"{len(x)} of {path.name}\n\n| noise level | objects | elsewhere |\n|---|---|---|")
    for level in LEVELS:
        errors = squares(model, tok, x, captions, level)
        print(f"| {level:.2f} | {errors[there].mean():.4f} | {errors[~there].mean():.4f} |", flush=True)


@torch.inference_mode()
def apart(model, tok, channels, frames=3):
    """{question: mean square of what changes over the frames between two captions' predictions}, of the 64x64 model's channels."""
    random, found = torch.Generator().manual_seed(1), {}
    for question, words in MOTIONS.items():
        squares = []
        for thing in THINGS:
            noise = torch.randn(4, channels, frames, 8, 8, generator=random)
            a, b = (model(noise, torch.full((4,), 1000.0), *text.tokens(tok, [f"{thing} {word}"] * 4))[:, :grow.OLD_Z] for word in words)
            squares.append((a - b - (a - b).mean(2, keepdim=True)).square().mean())
        found[question] = torch.stack(squares).mean().item()
    return found


def motion(state, tok, model, step):
    """Prints apart() of three models."""
    begun = train_dit.Model(tok, train_dit128.TEXT, train_dit128.COARSE).eval()  # what grows
    folder = train_vae128.small_pack(state)
    grow.model(begun, tok, folder, *latents128.statistics(state))
    small_tok = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", model_max_length=text.LENGTH)
    small = train_dit.Model(small_tok).eval()
    small.dit = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    small.encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    print(f"| | {' | '.join(MOTIONS)} |\n|---|" + "---|" * len(MOTIONS))
    for name, (one, words, channels) in {"64x64": (small, small_tok, grow.OLD_Z), "grown": (begun, tok, vae128.Z),
                                         f"step {step}": (model, tok, vae128.Z)}.items():
        print(f"| {name} | {' | '.join(f'{v:.5f}' for v in apart(one, words, channels).values())} |", flush=True)


@torch.inference_mode()
def draw(path, model, tok, state, x, captions):
    """The pictures, and below them what one step makes of each at every level: where the level is too high for more than colour
    and place, the caption has not said what stands there."""
    rows, (ids, mask) = [x], text.tokens(tok, captions)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with common.autocast():
        for level in reversed(LEVELS):
            noisy = (1 - level) * x + level * noise
            rows.append(noisy - level * model(noisy, torch.full((len(x),), level * 1000), ids, mask))
        trained, (mean, std) = latents128.trained_vae(state), latents128.statistics(state)
        sample.sheet(sample.frames_of(trained, torch.cat(rows), mean, std, vae128.decode), path, len(x))


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--weights", choices=("average", "model"), default="average", help="of the checkpoint")
    parser.add_argument("--clips", action="store_true", help="clips with a direction, in place of pictures")
    parser.add_argument("--shard", type=int, default=1, help="of the latents (default: %(default)s)")
    parser.add_argument("--count", type=int, default=128, help="at most so many (default: %(default)s)")
    parser.add_argument("--sheet", metavar="FILE", help="a PNG of one step's estimates for 16 pictures, at each level")
    parser.add_argument("--where", action="store_true", help="losses where objects are and elsewhere, in place of captions'")
    parser.add_argument("--motion", action="store_true", help="how far captions of motion are apart, in place of losses")
    args = parser.parse_args()
    common.prepare(args)
    saved = common.load(args.state / "dit128.pt")
    tok = text.tokenizer(args.state, train_dit128.TEXT, "tokenizer128.json", train_dit128.corpus)
    model = train_dit.Model(tok, train_dit128.TEXT, train_dit128.CONFIG).eval()
    model.load_state_dict(saved[args.weights], strict=False)
    if args.motion:
        return motion(args.state, tok, model, saved["step"])
    if args.where:
        return where(args.state, model, tok, "clip" if args.clips else "picture", args.shard, args.count)
    kind, change = ("clip", "turned round") if args.clips else ("picture", "noun swapped")
    x, right, wrong = examples(args.state, kind, args.shard, args.count)
    kinds = {"right": right, "none": [""] * len(x), "another's": right[1:] + right[:1], change: wrong}
    if args.sheet and not args.clips:
        draw(args.sheet, model, tok, args.state, x[:16], right[:16])
    print(f"step {saved['step']}, {len(x)} {kind}s\n\n| noise level | {' | '.join(kinds)} | {change} costs in |\n|---|---|---|---|---|---|")
    for level in LEVELS:
        found = {kind: losses(model, tok, x, captions, level) for kind, captions in kinds.items()}
        worse = (found[change] > found["right"]).float().mean()
        print(f"| {level:.2f} | {' | '.join(f'{v.mean():.4f}' for v in found.values())} | {worse:.0%} |", flush=True)


if __name__ == "__main__":
    main()
