# SPDX-License-Identifier: MIT
"""Distils the 128x128 model to a few steps without guidance, in one of two ways.

Both teach a student u(x, t) the mean of the teacher's guided velocity from t down to an end s, where the teacher's way begins
at x: what is left of the way, x + (s - t) u, is one step. Half of what u has to learn at t it knows already at r, a little nearer
to the end:

    (t - s) u(x_t, t) = (t - r) v(x_t, t) + (r - s) u(x_r, r),    x_r = x_t + (r - t) v(x_t, t)

with v the teacher's and the last u held fixed. It is consistency tuning (Geng and others: *Consistency models made easy*, 2024)
written as a mean velocity, and MeanFlow's identity (Geng and others, 2025) with a difference in place of the derivative.

- `consistency`: s is 0 always. Sampled with the renoise rule, in any number of steps.
- `segments`: s is the next noise level of the schedule of four steps. Sampled by Euler's rule in those four.
"""

import torch

import common
import export
import sample
import text
import train_dit
import train_dit128

STEPS, PARTS = 4, 8  # of the schedule, and of a step: as finely as the teacher is followed
SETTINGS = dict(train_dit128.SETTINGS, lr=1.5e-4, steps=1000, warmup=50, decay=900, average=0.99, pictures_first=0, picture_share=0.25,
                tokens=train_dit128.SETTINGS["tokens"] // 2)
SMOKE = dict(train_dit128.SMOKE, steps=3, tokens=128)
NEAR = 0.01  # errors below this count as squares, larger ones as themselves
RULES = {"consistency": "renoise", "segments": "euler"}


def levels():
    """Noise levels from 0 to 1: the schedule's STEPS + 1, and PARTS - 1 between each two."""
    ends = sample.sigmas(STEPS, export.SHIFT).flip(0)
    share = torch.arange(STEPS * PARTS + 1) / PARTS
    low = share.floor().long().clamp(max=STEPS - 1)
    return torch.lerp(ends[low], ends[low + 1], share - low)


def tall(x):
    return x.view(-1, 1, 1, 1, 1)


class Trainer(train_dit128.Trainer):
    def __init__(self, args, settings):
        self.name = f"{args.kind}128"
        teacher = common.load(args.state / "dit128.pt")
        if not teacher:
            raise SystemExit(f"{args.state}: no trained transformer; run train_dit128.py first")
        super().__init__(args, settings)
        self.teacher = self.new_model().to(common.DEVICE).eval().requires_grad_(False)
        self.teacher.load_state_dict(teacher["average"], strict=False)
        self.levels = levels().to(common.DEVICE)
        self.no_ids, self.no_mask = (v.to(common.DEVICE) for v in text.tokens(self.tok, [""]))
        if self.step == 0:
            self.model.load_state_dict(teacher["average"], strict=False)
            self.average = common.Average(self.model, settings["average"])

    def new_model(self):
        model = super().new_model()
        model.encoder.requires_grad_(False)
        return model

    def points(self, n):
        """Levels t, r and s for n samples."""
        high = torch.randint(1, len(self.levels), (n,), generator=self.random, device=common.DEVICE)
        end = torch.zeros_like(high) if self.args.kind == "consistency" else (high - 1) // PARTS * PARTS
        return self.levels[high], self.levels[high - 1], self.levels[end]

    @torch.no_grad()
    def guided(self, x, t, context, empty):
        both = self.teacher.dit(torch.cat([x, x]), t.repeat(2) * 1000, torch.cat([context, empty]), return_dict=False)[0]
        with_prompt, without = both.float().chunk(2)
        return without + export.GUIDANCE * (with_prompt - without)

    def loss(self, x, ids, mask, shown):
        n = len(x)
        t, r, s = self.points(n)
        noise = self.normal(*x.shape)
        noisy = torch.lerp(x, noise, tall(t))
        with common.autocast(), train_dit.attention_for(x):
            with torch.no_grad():
                context = text.embed(self.teacher.encoder, ids, mask)
                empty = text.embed(self.teacher.encoder, self.no_ids, self.no_mask).expand(n, -1, -1)
                v = self.guided(noisy, t, context, empty)
                nearer = noisy + tall(r - t) * v
                rest = self.model.dit(nearer, r * 1000, context, return_dict=False)[0].float()
                wanted = (tall(t - r) * v + tall(r - s) * rest) / tall(t - s)
            u = self.model.dit(noisy, t * 1000, context, return_dict=False)[0].float()
        error = (u - wanted).square().flatten(1).mean(1)
        return (error / (error.detach() + NEAR).sqrt()).mean()

    def drawn(self, prompts, frames):
        return sample.sample(self.shown.dit, self.shown.encoder, self.tok, prompts, frames, STEPS, 1.0, export.SHIFT,
                             renoise=RULES[self.args.kind] == "renoise")


def main():
    parser = train_dit128.arguments(__doc__)
    parser.add_argument("--kind", choices=RULES, required=True, help="which of the two ways")
    args = parser.parse_args()
    common.prepare(args)
    torch.manual_seed(0)
    Trainer(args, dict(SETTINGS, **(SMOKE if args.smoke else {}))).run()


if __name__ == "__main__":
    main()
