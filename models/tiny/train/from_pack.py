# SPDX-License-Identifier: MIT
"""Begins a state folder from a pack of a 128x128 model, to train it further: its VAE, its transformer and text encoder, its tokenizer,
and what its latents are normalised with.

    from_pack.py --pack models/tiny --state STATE

Then `train_dit128.py --state STATE` goes on with the transformer. Where the VAE is to be trained first (`train_vae128.py --stage whole`),
do it in another folder with the same VAE, and take the transformer there with `moved.py --before STATE`.
"""

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

import common


def weights(folder, prefix=""):
    return {prefix + name: w.float() for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="folder of the pack")
    args = parser.parse_args()
    common.prepare(args)
    made = args.state / "latents128"
    made.mkdir(exist_ok=True)
    config = AutoencoderKLWan.load_config(args.pack / "vae")
    (made / "statistics.json").write_text(json.dumps(dict(mean=config["latents_mean"], std=config["latents_std"])))
    shutil.copy(args.pack / "tokenizer" / "tokenizer.json", args.state / "tokenizer128.json")
    common.save(args.state / "vae128-decoder.pt", average=weights(args.pack / "vae"))
    model = weights(args.pack / "text_encoder", "encoder.") | weights(args.pack / "transformer", "dit.")
    common.save(args.state / "start128.pt", average=model)


if __name__ == "__main__":
    main()
