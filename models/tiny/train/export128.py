# SPDX-License-Identifier: MIT
"""Writes the 128x128 model's pack in the layout of diffusers' WanPipeline, weights in bf16."""

import json
from pathlib import Path

import torch

import common
import distill128
import export
import latents128
import text
import train_dit
import train_dit128

DEFAULTS = dict(width=128, height=128, frames=25, fps=12, text_length=train_dit128.TEXT.length)
GUIDED = dict(steps=export.STEPS, guidance=export.GUIDANCE)


def sampling(weights):
    """What a pack of these weights runs by default."""
    kind = weights.removesuffix("128")
    if kind not in distill128.RULES:
        return GUIDED
    return dict(steps=distill128.STEPS, guidance=1.0, schedule="flow", shift=export.SHIFT, step_rule=distill128.RULES[kind])


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    parser.add_argument("--weights", default="dit128", choices=["dit128", *(f"{kind}128" for kind in distill128.RULES)],
                        help="the transformer, as trained or as distilled (default: %(default)s)")
    args = parser.parse_args()
    common.prepare(args)
    mean, std = latents128.statistics(args.state)
    vae = export.with_statistics(latents128.trained_vae(args.state), mean, std).to(torch.bfloat16)
    tok = text.tokenizer(args.state, train_dit128.TEXT, "tokenizer128.json", train_dit128.corpus)
    model = train_dit.Model(tok, train_dit128.TEXT, train_dit128.CONFIG)
    weights = train_dit128.checked(common.load(args.state / f"{args.weights}.pt")["average"])
    export.pipeline(model, tok, vae, weights).save_pretrained(args.out)
    (args.out / "imagine.json").write_text(json.dumps(dict(DEFAULTS, **sampling(args.weights)), indent=2) + "\n")
    export.tidy(args.out)
    print(f"{args.out}: {export.size_of(args.out)} bytes")


if __name__ == "__main__":
    main()
