#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Original Wan 2.1, umT5 and Self-Forcing weights, pickles (.pth, .pt) or safetensors with the original names, as safetensors in
the diffusers layout. Of a model in several files all are given.

    convert.py diffusion_pytorch_model*.safetensors PACK/transformer/diffusion_pytorch_model.safetensors
    convert.py Wan2.1_VAE.pth PACK/vae/diffusion_pytorch_model.safetensors
    convert.py models_t5_umt5-xxl-enc-bf16.pth PACK/text_encoder/model.safetensors
    convert.py self_forcing_dmd.pt PACK/transformer/diffusion_pytorch_model.safetensors

What a file holds is told from its names; a name that is not known ends the
conversion, and nothing is written. The config.json beside the weights is that of the published pack of the same model.
The VAE of Wan 2.2 (16x16x4) has other names, which are not known: take the published pack's.
Needs PyTorch and numpy. A pickle is read with weights_only=True, which runs no code of it."""

import argparse
import contextlib
import json
import math
import mmap
import os
import re
import struct
import sys

import torch

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
# What training wrapped around the model's own names.
WRAPPERS = ("model.", "_fsdp_wrapped_module.", "_orig_mod.", "module.")

# Per kind of model: (original name, diffusers name); groups go over by number.
TRANSFORMER = [
    (r"patch_embedding\.(weight|bias)", r"patch_embedding.\1"),
    (r"time_embedding\.0\.(weight|bias)", r"condition_embedder.time_embedder.linear_1.\1"),
    (r"time_embedding\.2\.(weight|bias)", r"condition_embedder.time_embedder.linear_2.\1"),
    (r"text_embedding\.0\.(weight|bias)", r"condition_embedder.text_embedder.linear_1.\1"),
    (r"text_embedding\.2\.(weight|bias)", r"condition_embedder.text_embedder.linear_2.\1"),
    (r"time_projection\.1\.(weight|bias)", r"condition_embedder.time_proj.\1"),
    (r"head\.modulation", r"scale_shift_table"),
    (r"head\.head\.(weight|bias)", r"proj_out.\1"),
    (r"(blocks\.\d+)\.modulation", r"\1.scale_shift_table"),
    (r"(blocks\.\d+)\.norm3\.(weight|bias)", r"\1.norm2.\2"),
    (r"(blocks\.\d+)\.ffn\.0\.(weight|bias)", r"\1.ffn.net.0.proj.\2"),
    (r"(blocks\.\d+)\.ffn\.2\.(weight|bias)", r"\1.ffn.net.2.\2"),
] + [rule for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2")) for rule in (
    (rf"(blocks\.\d+)\.{old}\.([qkv])\.(weight|bias)", rf"\1.{new}.to_\2.\3"),
    (rf"(blocks\.\d+)\.{old}\.o\.(weight|bias)", rf"\1.{new}.to_out.0.\2"),
    (rf"(blocks\.\d+)\.{old}\.norm_([qk])\.weight", rf"\1.{new}.norm_\2.weight"),
)]

UMT5 = [
    (r"token_embedding\.weight", r"shared.weight"),
    (r"norm\.weight", r"encoder.final_layer_norm.weight"),
    (r"blocks\.(\d+)\.norm1\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.weight", r"encoder.block.\1.layer.0.SelfAttention.\2.weight"),
    (r"blocks\.(\d+)\.pos_embedding\.embedding\.weight",
     r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight"),
    (r"blocks\.(\d+)\.norm2\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight"),
    (r"blocks\.(\d+)\.ffn\.fc1\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
    (r"blocks\.(\d+)\.ffn\.fc2\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
]

# A residual block's layers by their place in the original's list.
RESIDUAL = (("residual.0.gamma", "norm1.gamma"), (r"residual.2.(weight|bias)", "conv1."), ("residual.3.gamma", "norm2.gamma"),
            (r"residual.6.(weight|bias)", "conv2."), (r"shortcut.(weight|bias)", "conv_shortcut."))


def residual(old, new):
    """Rules for one residual block; `old` is a pattern without groups."""
    for layer, name in RESIDUAL:
        pattern = layer.replace(".", r"\.")
        yield rf"{old}\.{pattern}", new + "." + name + (r"\1" if "(" in layer else "")


def vae():
    yield r"conv1\.(weight|bias)", r"quant_conv.\1"
    yield r"conv2\.(weight|bias)", r"post_quant_conv.\1"
    for side in ("encoder", "decoder"):
        yield rf"{side}\.conv1\.(weight|bias)", rf"{side}.conv_in.\1"
        yield rf"{side}\.head\.0\.gamma", rf"{side}.norm_out.gamma"
        yield rf"{side}\.head\.2\.(weight|bias)", rf"{side}.conv_out.\1"
        yield rf"{side}\.middle\.1\.norm\.gamma", rf"{side}.mid_block.attentions.0.norm.gamma"
        yield rf"{side}\.middle\.1\.(to_qkv|proj)\.(weight|bias)", rf"{side}.mid_block.attentions.0.\1.\2"
        yield from residual(rf"{side}\.middle\.0", f"{side}.mid_block.resnets.0")
        yield from residual(rf"{side}\.middle\.2", f"{side}.mid_block.resnets.1")
    for place in range(11):  # per level two residual blocks and, but for the last, what halves the size
        old, new = rf"encoder\.downsamples\.{place}", f"encoder.down_blocks.{place}"
        if place % 3 == 2:
            yield rf"{old}\.(resample\.1|time_conv)\.(weight|bias)", rf"{new}.\1.\2"
        else:
            yield from residual(old, new)
    for place in range(15):  # per level three residual blocks and, but for the last, what doubles the size
        level, layer = divmod(place, 4)
        old, new = rf"decoder\.upsamples\.{place}", f"decoder.up_blocks.{level}"
        if layer == 3:
            yield rf"{old}\.(resample\.1|time_conv)\.(weight|bias)", rf"{new}.upsamplers.0.\1.\2"
        else:
            yield from residual(old, f"{new}.resnets.{layer}")


# kind: a name that only it has, its rules
KINDS = {"transformer": ("head.modulation", TRANSFORMER), "text encoder": ("token_embedding.weight", UMT5),
         "VAE": ("decoder.head.0.gamma", list(vae()))}


def tensors_of(loaded):
    """name: tensor, without what training wrapped around them."""
    for part in ("generator_ema", "generator", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(part), dict):
            loaded = loaded[part]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        sys.exit("the file holds no dictionary of tensors")
    tensors = {}
    for name, tensor in loaded.items():
        while any(name.startswith(w) for w in WRAPPERS):
            name = name[next(len(w) for w in WRAPPERS if name.startswith(w)):]
        name = name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "")
        if name in tensors:
            sys.exit(f"{name}: the file has it twice")
        tensors[name] = tensor
    return tensors


def read_safetensors(path):
    """name: tensor, in the file's own memory."""
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            header = 8 + struct.unpack_from("<Q", data)[0]
            entries = json.loads(data[8:header])
            entries.pop("__metadata__", None)
            types = {name: dtype for dtype, name in DTYPES.items()}
            return {name: torch.frombuffer(data, dtype=types[e["dtype"]], offset=header + e["data_offsets"][0],
                                           count=math.prod(e["shape"])).view(e["shape"]) for name, e in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as problem:
            sys.exit(f"{path}: not read: {type(problem).__name__}: {problem}")


def read(path):
    if path.endswith(".safetensors"):
        return read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # pickle's errors are of many kinds
        sys.exit(f"{path}: not read: {str(problem).splitlines()[0]}")


def read_all(paths):
    """The tensors of all files together."""
    found = {}
    for path in paths:
        for name, tensor in tensors_of(read(path)).items():
            if name in found:
                sys.exit(f"{name}: {path} has it once more")
            found[name] = tensor
    return found


def convert(tensors):
    """(kind, tensors by their diffusers names)."""
    kind = next((kind for kind, (mark, _) in KINDS.items() if mark in tensors), None)
    if kind is None:
        marks = ", ".join(f"{mark} ({kind})" for kind, (mark, _) in KINDS.items())
        sys.exit(f"no weights of a kind that is known: none of {marks} is there, but {', '.join(sorted(tensors)[:3])}")
    rules = [(re.compile(old), new) for old, new in KINDS[kind][1]]
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        found = next((match.expand(new) for match, new in ((old.fullmatch(name), new) for old, new in rules) if match), None)
        if found is None or tensor.dtype not in DTYPES:
            unknown.append(name if found is None else f"{name} of {tensor.dtype}")
        else:
            renamed[found] = tensor
    if any(".downsamples.0.downsamples." in name for name in unknown):
        sys.exit("this is the VAE of Wan 2.2, whose names are not known here: take that of the published pack (…-Diffusers)")
    if unknown:
        sys.exit(f"{len(unknown)} names that a Wan {kind} does not have, as {', '.join(unknown[:3])}")
    return kind, renamed


def write(path, tensors):
    """A safetensors file, under a temporary name until it is whole."""
    header, offset = {}, 0
    for name in sorted(tensors):
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": DTYPES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        with open(path + ".part", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in sorted(tensors):
                file.write(tensors[name].detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        os.replace(path + ".part", path)
    except BaseException:  # Ctrl-C too: what is not whole is not left behind
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".part")
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="the .pth, .pt or .safetensors files")
    parser.add_argument("out", help="the .safetensors file to write")
    arguments = parser.parse_args()
    if os.path.exists(arguments.out) and any(os.path.samefile(path, arguments.out) for path in arguments.weights if os.path.exists(path)):
        sys.exit(f"{arguments.out}: is one of the files to read")
    kind, tensors = convert(read_all(arguments.weights))
    write(arguments.out, tensors)
    print(f"{arguments.out}: {len(tensors)} tensors of a {kind}")


if __name__ == "__main__":
    main()
