#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes a pack of the sizes of Wan 2.1 T2V 1.3B and umT5-XXL, with random weights in bf16: 14.5 GB, in some minutes.

    python tests/bench/wan_at_size.py FOLDER
    build/examples/imagine generate "a red fox in the snow" --model FOLDER --width 480 --height 272 --frames 17 --steps 2

What comes out is noise; time and memory are those of the real model. The tokenizer is the shipped model's, of 48 tokens. Needs PyTorch,
diffusers and transformers.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

TINY = Path(__file__).resolve().parents[2] / "models/tiny"
SCHEDULER = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
VALUES = 1 << 24  # that are drawn; larger tensors hold them again and again


def models():
    """The three by their folders, without memory for their weights."""
    with torch.device("meta"):
        text = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                          feed_forward_proj="gated-gelu")
        return {"transformer": WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960),
                "vae": AutoencoderKLWan(), "text_encoder": UMT5EncoderModel(text)}


def values(name, tensor, drawn):
    """Factors of norms are 1, weights as large as keeps what they multiply at its size."""
    if tensor.dim() == 1 and "norm" in name or name.endswith("gamma"):
        return torch.ones(1).bfloat16()
    return (drawn * (tensor[0].numel()**-0.5 if tensor.dim() > 1 else 0.02)).bfloat16()


def write(path, model, drawn):
    """Tensor by tensor, for not all of them fit into memory."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "encoder.embed_tokens.weight"}  # is "shared"
    header, at = {}, 0
    for name, tensor in state.items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, at + 2 * tensor.numel()]}
        at += 2 * tensor.numel()
    head = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, tensor in state.items():
            some, left = values(name, tensor, drawn).view(torch.uint8).numpy().tobytes(), 2 * tensor.numel()
            while left:
                left -= file.write(some[:left])
    print(f"{path}: {at / 1e9:.2f} GB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="is made, and must not be there yet")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    drawn = torch.randn(VALUES, generator=torch.Generator().manual_seed(0))
    for name, model in models().items():
        if name == "text_encoder":
            model.config.save_pretrained(folder / name)
            write(folder / name / "model.safetensors", model, drawn)
        else:
            model.save_config(folder / name)
            write(folder / name / "diffusion_pytorch_model.safetensors", model, drawn)
    shutil.copytree(TINY / "tokenizer", folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))


if __name__ == "__main__":
    main()
