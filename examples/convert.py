#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Original Wan 2.1 and 2.2, umT5 and Self-Forcing weights, pickles (.pth, .pt) or safetensors with the original names, also as
ComfyUI has them, as safetensors in the diffusers layout. Of a model in several files all are given.

    convert.py diffusion_pytorch_model*.safetensors PACK/transformer/diffusion_pytorch_model.safetensors
    convert.py Wan2.1_VAE.pth PACK/vae/diffusion_pytorch_model.safetensors
    convert.py Wan2.2_VAE.pth PACK/vae/diffusion_pytorch_model.safetensors
    convert.py models_t5_umt5-xxl-enc-bf16.pth PACK/text_encoder/model.safetensors
    convert.py self_forcing_dmd.pt PACK/transformer/diffusion_pytorch_model.safetensors
    convert.py umt5_xxl_fp8_e4m3fn_scaled.safetensors PACK/text_encoder/model.safetensors

What a file holds is told from its names; a name that is not known ends the
conversion, and nothing is written. The config.json beside the weights is that of the published pack of the same model.
8-bit floats become bf16, multiplied by their scales where they have some; such files may have diffusers' names already.
Needs PyTorch and numpy. A pickle is read with weights_only=True, which runs no code of it."""

import argparse
import collections
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
FP8 = {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
OTHER_DTYPES = {torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL"}
# What training and ComfyUI wrapped around the model's own names.
WRAPPERS = ("model.", "diffusion_model.", "_fsdp_wrapped_module.", "_orig_mod.", "module.")

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


def vae_2():
    """Wan 2.2's (16x16x4): its levels have lists of their own, within those of the outer ones."""
    yield from (rule for rule in vae() if not re.search("samples", rule[0]))
    for level in range(4):
        for side, way, layers in (("encoder", "down", 2), ("decoder", "up", 3)):
            old, new, one = rf"{side}\.{way}samples\.{level}\.{way}samples", f"{side}.{way}_blocks.{level}", way + "sampler"
            for layer in range(layers):
                yield from residual(rf"{old}\.{layer}", f"{new}.resnets.{layer}")
            yield rf"{old}\.{layers}\.(resample\.1|time_conv)\.(weight|bias)", rf"{new}.{one}.\1.\2"


AS_THEY_ARE = [(r".*", r"\g<0>")]
# (kind, a name that only it has, its rules)
KINDS = (("transformer", "head.modulation", TRANSFORMER), ("text encoder", "token_embedding.weight", UMT5),
         ("VAE of Wan 2.2", "decoder.upsamples.0.upsamples.0.residual.0.gamma", list(vae_2())),
         ("VAE", "decoder.head.0.gamma", list(vae())),
         ("transformer", "condition_embedder.time_proj.weight", AS_THEY_ARE),
         ("text encoder", "encoder.final_layer_norm.weight", AS_THEY_ARE), ("VAE", "decoder.norm_out.gamma", AS_THEY_ARE))

# Names of models that the library does not run, and what they are.
OTHERS = (
    (r"\.lora_|\.diff(_b)?$", "a LoRA: diffusers can merge it into its model (load_lora_weights, fuse_lora, then save_pretrained)"),
    (r"^(text_encoders|cond_stage_model|first_stage_model|vae)\.", "several models in one file: take the files of each"),
    (r"^(video_model|audio_model)\.", "Ovi's transformer for video with sound, which this library does not run"),
    (r"^vace_", "the transformer of VACE, which this library does not run"),
    (r"^(face_adapter|motion_encoder|pose_patch_embedding)", "the transformer of Wan-Animate, which this library does not run"),
    (r"^(casual_audio_encoder|audio_injector|audio_proj)", "a transformer that follows sound, which this library does not run"),
    (r"^(control_adapter|ref_conv|condition_embedder\.image_embedder)|^img_emb\.|cross_attn\.k_img\.",
     "a transformer from picture to video (I2V) or with controls, which this library does not run; take one from text to video (T2V), "
     "or TI2V 5B"),
)


class Scaled:
    """An 8-bit tensor that becomes bf16 when it is written."""

    def __init__(self, tensor, scale):
        self.tensor, self.scale, self.dtype, self.shape = tensor, scale, torch.bfloat16, tensor.shape

    def values(self):
        if self.scale is None:
            return self.tensor.to(torch.bfloat16)
        rows = self.scale.float().reshape(-1, *[1] * (self.tensor.ndim - 1))  # one for all, or one a row
        return (self.tensor.float() * rows).to(torch.bfloat16)


def unscale(tensors):
    """8-bit floats with their scales, which ComfyUI names in two ways, and without what else it puts beside them."""
    scales = {}
    for name in list(tensors):
        base, _, last = name.rpartition(".")
        if last in ("scale_weight", "weight_scale"):
            scales[base + ".weight"] = tensors.pop(name)
        elif last in ("scale_input", "input_scale") or name in ("scaled_fp8", "spiece_model"):
            del tensors[name]
        elif last == "comfy_quant":
            text = bytes(tensors.pop(name).tolist()).decode(errors="replace")
            if '"float8_' not in text:
                sys.exit(f"{base}.weight: quantised as {text}; only 8-bit floats are converted")
    for name, tensor in tensors.items():
        scale = scales.pop(name, None)
        if tensor.dtype not in FP8:
            if scale is not None:
                sys.exit(f"{name}: is {str(tensor.dtype).removeprefix('torch.')} with a scale; only 8-bit floats are converted")
        elif scale is not None and (scale.dtype not in DTYPES or scale.numel() not in (1, *tensor.shape[:1])):
            sys.exit(f"{name}: {list(tensor.shape)}, but its scale is {list(scale.shape)}; one for all or one a row is known")
        else:
            tensors[name] = Scaled(tensor, scale)
    if scales:
        sys.exit(f"{next(iter(scales))}: there is a scale of it, but not the tensor itself")
    return tensors


def tensors_of(loaded):
    """name: tensor, without what training wrapped around them."""
    for part in ("generator_ema", "generator", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(part), dict):
            loaded = loaded[part]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        sys.exit("the file holds no dictionary of tensors")
    for whole in ("first_stage_model.", "vae."):  # of a VAE alone; with other models beside it these names stay and are refused
        if all(name.startswith(whole) for name in loaded):
            loaded = {name.removeprefix(whole): tensor for name, tensor in loaded.items()}
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
            if header > len(data):
                raise ValueError(f"it has {len(data)} bytes, and its header alone would take {header}; download it again")
            entries = json.loads(data[8:header])
            entries.pop("__metadata__", None)
            wanted = max((header + e["data_offsets"][1] for e in entries.values()), default=0)
            if wanted > len(data):
                raise ValueError(f"it has {len(data)} of {wanted} bytes, so it was cut short; download it again")
            types = {name: dtype for dtype, name in (DTYPES | FP8 | OTHER_DTYPES).items()}
            unknown = {name: e["dtype"] for name, e in entries.items() if e["dtype"] not in types}
            if unknown:
                raise ValueError(f"{next(iter(unknown))} is stored as {next(iter(unknown.values()))}, which is not known here")
            return {name: torch.frombuffer(data, dtype=types[e["dtype"]], offset=header + e["data_offsets"][0],
                                           count=math.prod(e["shape"])).view(e["shape"]) if 0 not in e["shape"]
                    else torch.empty(e["shape"], dtype=types[e["dtype"]]) for name, e in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as problem:
            sys.exit(f"{path}: not read: {problem if type(problem) is ValueError else f'{type(problem).__name__}: {problem}'}")


def check_begin(path):
    """Ends with what a file is by its first bytes, where it holds no weights that can be read."""
    try:
        with open(path, "rb") as file:
            begin = file.read(64)
    except OSError as problem:
        sys.exit(f"{path}: not read: {problem.strerror}")
    known = ((b"version https://git-lfs", 'it is a pointer of git-lfs, not the file itself; get that with "git lfs pull"'),
             (b"GGUF", "it is a GGUF file, which is not converted; take the model's safetensors"),
             (bytes(16), "it begins with zeros, as a download does that has not ended; download it again"))
    told = next((what for first, what in known if begin.startswith(first)), None)
    if not begin or begin.lstrip().startswith(b"<"):
        told = "it is a web page, not the file itself; download it again" if begin else "it is empty; download it again"
    if path.endswith(".safetensors") and begin.startswith((b"PK", b"\x80\x02")):
        told = "it is a pickle; give it the ending .pth"
    if told:
        sys.exit(f"{path}: not read: {told}")


def read(path):
    check_begin(path)
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
    for pattern, other in OTHERS:
        found = next((name for name in tensors if re.search(pattern, name)), None)
        if found:
            sys.exit(f"this is {other} ({found})")
    kind, _, rules = next((k for k in KINDS if k[1] in tensors), (None, None, None))
    if kind is None:
        marks = ", ".join(f"{mark} ({kind})" for kind, mark, _ in KINDS)
        sys.exit(f"no weights of a kind that is known: none of {marks} is there, but {', '.join(sorted(tensors)[:3])}; "
                 "of a model in several files all are given at once")
    tensors = unscale(tensors)
    rules = [(re.compile(old), new) for old, new in rules]
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        found = next((match.expand(new) for match, new in ((old.fullmatch(name), new) for old, new in rules) if match), None)
        if found is None or tensor.dtype not in DTYPES:
            unknown.append(name if found is None else f"{name} of {tensor.dtype}")
        else:
            renamed[found] = tensor
    if unknown:
        sys.exit(f"{len(unknown)} names that a Wan {kind} does not have, as {', '.join(unknown[:3])}")
    check_blocks(renamed)
    check_channels(renamed)
    return kind, renamed


def check_blocks(tensors):
    """All blocks have as many tensors as the first, or a file is missing."""
    found = (re.match(r"(?:encoder\.)?blocks?\.(\d+)\.", name) for name in tensors)
    counts = collections.Counter(int(match[1]) for match in found if match)
    most = max(counts.values(), default=0)
    for number in range(max(counts, default=-1) + 1):
        if counts[number] != most:
            sys.exit(f"of block {number} {counts[number]} of {most} tensors are there; of a model in several files all are given at once")


def check_channels(tensors):
    """Wan 2.2 from picture to video has the names of text to video, and takes more channels than it gives."""
    into, out = tensors.get("patch_embedding.weight"), tensors.get("proj_out.weight")
    if into is None or out is None or len(into.shape) != 5:
        return
    patch = math.prod(into.shape[2:])
    if into.shape[1] * patch != out.shape[0]:
        sys.exit(f"this transformer takes {into.shape[1]} channels and gives {out.shape[0] // patch}: from picture to video (I2V) or with "
                 "controls, which this library does not run; take one from text to video (T2V) or TI2V 5B")


def write(path, tensors):
    """A safetensors file, under a temporary name until it is whole."""
    header, offset = {}, 0
    for name in sorted(tensors):
        size = math.prod(tensors[name].shape) * tensors[name].dtype.itemsize
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
                tensor = tensors[name].values() if isinstance(tensors[name], Scaled) else tensors[name]
                file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        os.replace(path + ".part", path)
    except BaseException:  # Ctrl-C too: what is not whole is not left behind
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".part")
        raise


def check_out(out, weights):
    """The last name is the file to write, which may have been forgotten."""
    if os.path.isdir(out):
        sys.exit(f"{out}: is a folder; give the name of the file to write into it, as in the examples of --help")
    if not out.endswith(".safetensors"):
        sys.exit(f"{out}: does not end in .safetensors; the last name is that of the file to write")
    if not os.path.exists(out):
        return
    if any(os.path.samefile(path, out) for path in weights if os.path.exists(path)):
        sys.exit(f"{out}: is one of the files to read")
    names = read(out)
    if not any(mark in names for _, mark, rules in KINDS if rules is AS_THEY_ARE):
        sys.exit(f"{out}: is there, and not of this script's making; the last name is that of the file to write: if it is, delete it first")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="the .pth, .pt or .safetensors files")
    parser.add_argument("out", help="the .safetensors file to write")
    arguments = parser.parse_args()
    check_out(arguments.out, arguments.weights)
    kind, tensors = convert(read_all(arguments.weights))
    try:
        write(arguments.out, tensors)
    except OSError as problem:
        sys.exit(f"{arguments.out}: not written: {problem.strerror}")
    print(f"{arguments.out}: {len(tensors)} tensors of a {kind}")


if __name__ == "__main__":
    main()
