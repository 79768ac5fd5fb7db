# SPDX-License-Identifier: MIT
"""Writes the 128x128 model's pack in the layout of diffusers' WanPipeline, weights in bf16."""

import json
from pathlib import Path

import torch

import common
import export
import latents48
import text
import train_dit
import train_dit48

DEFAULTS = dict(width=128, height=128, frames=25, fps=12, steps=export.STEPS, guidance=export.GUIDANCE,
                text_length=train_dit48.TEXT.length)


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    args = parser.parse_args()
    common.prepare(args)
    mean, std = latents48.statistics(latents48.load(args.state))
    vae = export.with_statistics(latents48.trained_vae(args.state), mean, std).to(torch.bfloat16)
    tok = text.tokenizer(args.state, train_dit48.TEXT, "tokenizer48.json", train_dit48.corpus)
    model = train_dit.Model(tok, train_dit48.TEXT, train_dit48.CONFIG)
    export.pipeline(model, tok, vae, common.load(args.state / "dit48.pt")["average"]).save_pretrained(args.out)
    (args.out / "imagine.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    export.tidy(args.out)
    print(f"{args.out}: {export.size_of(args.out)} bytes")


if __name__ == "__main__":
    main()
