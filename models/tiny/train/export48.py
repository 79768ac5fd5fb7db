# SPDX-License-Identifier: MIT
"""Writes the 128x128 model's pack in the layout of diffusers' WanPipeline, weights in bf16."""

import json
from pathlib import Path

import torch

import common
import distill48
import export
import latents48
import text
import train_dit
import train_dit48

DEFAULTS = dict(width=128, height=128, frames=25, fps=12, text_length=train_dit48.TEXT.length)
GUIDED = dict(steps=export.STEPS, guidance=export.GUIDANCE)


def sampling(weights):
    """What a pack of these weights runs by default."""
    kind = weights.removesuffix("48")
    if kind not in distill48.RULES:
        return GUIDED
    return dict(steps=distill48.STEPS, guidance=1.0, schedule="flow", shift=export.SHIFT, step_rule=distill48.RULES[kind])


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    parser.add_argument("--weights", default="dit48", choices=["dit48", *(f"{kind}48" for kind in distill48.RULES)],
                        help="the transformer, as trained or as distilled (default: %(default)s)")
    args = parser.parse_args()
    common.prepare(args)
    mean, std = latents48.statistics(args.state)
    vae = export.with_statistics(latents48.trained_vae(args.state), mean, std).to(torch.bfloat16)
    tok = text.tokenizer(args.state, train_dit48.TEXT, "tokenizer48.json", train_dit48.corpus)
    model = train_dit.Model(tok, train_dit48.TEXT, train_dit48.CONFIG)
    export.pipeline(model, tok, vae, common.load(args.state / f"{args.weights}.pt")["average"]).save_pretrained(args.out)
    (args.out / "imagine.json").write_text(json.dumps(dict(DEFAULTS, **sampling(args.weights)), indent=2) + "\n")
    export.tidy(args.out)
    print(f"{args.out}: {export.size_of(args.out)} bytes")


if __name__ == "__main__":
    main()
