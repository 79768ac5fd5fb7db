# SPDX-License-Identifier: MIT
"""Trains the 128x128 model's transformer and text encoder together: pictures first, then clips of every length among them."""

import numpy as np
import torch

import captions
import common
import latents48
import sample
import scenes
import text
import train_dit
import vae48

TEXT = text.Size(length=48, pieces=4000, width=192, layers=4, heads=6, inner=448)
CONFIG = dict(patch_size=(1, 1, 1), num_attention_heads=4, attention_head_dim=64, in_channels=vae48.Z,
              out_channels=vae48.Z, text_dim=TEXT.width, freq_dim=256, ffn_dim=896, num_layers=6, cross_attn_norm=True,
              qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024)
SETTINGS = dict(lr=2e-3, steps=30000, warmup=100, decay=24000, average=0.999, weight_decay=0.01,
                pictures_first=8000, picture_share=0.3, tokens=3072, captions=60000)
SMOKE = dict(steps=6, warmup=2, decay=3, pictures_first=3, tokens=256, captions=1500)
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


class Trainer(train_dit.Trainer):
    name = "dit48"

    def tokenizer(self):
        return text.tokenizer(self.args.state, TEXT, "tokenizer48.json", lambda: corpus(self.s["captions"]))

    def new_model(self):
        return train_dit.Model(self.tok, TEXT, CONFIG)

    def load_data(self):
        self.vae = latents48.trained_vae(self.args.state)
        sets = latents48.load(self.args.state)
        self.mean, self.std = latents48.statistics(sets)
        self.sets = {k: (x, *self.token_table(words)) for k, (x, words) in sets.items()}
        clips = [k for k in self.sets if k[0] == "clip"]
        counts = np.array([len(self.sets[k][0]) for k in clips], float)
        self.clips, self.clip_weights = clips, counts / max(counts.sum(), 1)

    def token_table(self, words):
        """Ids and masks [n, wordings, length] as narrow integers."""
        ids, mask = text.tokens(self.tok, [c for some in words for c in some])
        shape = -1, latents48.WORDINGS, TEXT.length
        return ids.to(torch.int16).view(shape), mask.to(torch.int8).view(shape)

    def batch(self, rng):
        pictures = self.step < self.s["pictures_first"] or rng.random() < self.s["picture_share"]
        key = ("picture", 1) if pictures else self.clips[rng.choice(len(self.clips), p=self.clip_weights)]
        x, ids, mask = self.sets[key]
        n = max(1, self.s["tokens"] // (64 * key[1]))
        rows = torch.from_numpy(rng.integers(len(x), size=n))
        wording = torch.from_numpy(rng.integers(latents48.WORDINGS, size=n))
        shape = 1, -1, 1, 1, 1
        x = (x[rows].float() - self.mean.view(shape)) / self.std.view(shape)
        return x, ids[rows, wording].long(), mask[rows, wording].long()

    def show(self):
        self.average.store_into(self.shown)
        frames = 1 if self.step < self.s["pictures_first"] + 100 else 13
        with common.autocast():
            z = sample.sample(self.shown.dit, self.shown.encoder, self.tok, PROMPTS, frames)
            out = sample.frames_of(self.vae, z, self.mean, self.std, vae48.decode)
        out = out[:, :, ::4] if frames > 1 else out
        sample.sheet(out, self.args.state / f"{self.name}-{self.step:05d}.png", 8 if frames == 1 else 2)


def main():
    args = common.arguments(__doc__).parse_args()
    common.prepare(args)
    torch.manual_seed(0)
    Trainer(args, dict(SETTINGS, **(SMOKE if args.smoke else {}))).run()


if __name__ == "__main__":
    main()
