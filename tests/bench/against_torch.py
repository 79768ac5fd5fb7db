# SPDX-License-Identifier: MIT
"""This library beside PyTorch, in f32 or bf16, in one run, with the same threads, weights and inputs: matrix products, convolution,
attention, layers of a transformer as wide as Wan 1.3B, the decoder of Wan 2.1's VAE, layers of umT5-XXL. Weights are random and
made in a temporary folder (about 2 GB).

    python tests/bench/against_torch.py [NAME...] [--build build] [--threads N] [--runs N] [--cpu-level NAME]
                                        [--weights f32|bf16] [--torch f32|bf16]

Names: products, dit, vae, text. Prints a table: seconds of the fastest run of each, billions of operations a second, their
share of the multiply-add peak that is measured first, how many times as fast as PyTorch, and the normalised mean squared
difference of the two results, of random products without. Both are run in turn, so that a busy moment meets both. Needs PyTorch,
diffusers and transformers. What comes near to PyTorch in bf16 is `--weights bf16 --torch bf16 --cpu-level amx` (or avx512bf16).
"""

import argparse
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bindings/python"))

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import UMT5Config, UMT5EncoderModel

PRODUCTS = ["linear 1024x1536x1536 f32", "linear 1024x1536x8960 f32", "linear 1024x8960x1536 f32", "linear 4096x256x256 f32",
            "conv 3x3x3 60x104 384>384 f32", "conv 3x3x3 120x208 192>192 f32", "conv 3x3x3 240x416 96>96 f32",
            "attention 12x128 1024 tokens", "attention 12x128 4096 tokens", "attention 4x64 1024 tokens"]
ROUNDED = ["linear 256x1536x8960 bf16", "linear 1024x1536x1536 bf16", "linear 4096x1536x1536 bf16", "linear 4096x256x256 bf16",
           "attention 12x128 1024 tokens", "attention 12x128 4096 tokens", "attention 4x64 4096 tokens"]
WIDTH, FFN, TEXT_DIM, LAYERS = 1536, 8960, 4096, 2  # Wan 1.3B, two of its 30 layers
LATENT_SIZES = [(1, 30, 104), (1, 60, 104)]  # 780 and 1560 tokens
TEXT_TOKENS = 512
FLOAT32 = 6  # IMAGINE_F32
XXL = dict(d_model=4096, d_kv=64, num_heads=64, d_ff=10240, num_layers=1, feed_forward_proj="gated-gelu")


# ---- this library ----------------------------------------------------------------------------------------------------

class Stage:
    """A stage's handle, which the high-level binding makes anew for each call: "sampler", "vae" or "text"."""

    def __init__(self, options, kind, folder):
        self.imagine, self.kind, self.pointer = options.imagine, kind, ctypes.c_void_p()
        self.model = self.imagine.open(str(folder), options.context)
        self.imagine._call(f"imagine_{kind}_create", ctypes.byref(self.pointer), self.model._pointer, None)

    def call(self, name, *arguments, results=1):
        out = [ctypes.c_void_p() for _ in range(results)]
        self.imagine._call(f"imagine_{self.kind}_{name}", self.pointer, *arguments, *map(ctypes.byref, out))
        return [self.imagine.Buffer(o.value).array for o in out]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        getattr(self.imagine._lib(), f"imagine_{self.kind}_destroy")(ctypes.byref(self.pointer))


def load_library(options):
    """The Python binding, with the functions that it does not declare itself."""
    os.environ["IMAGINE_LIBRARY"] = str(options.build / "libimagine.so")
    import imagine
    handle, out, error = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(imagine._api.Error)
    for name, arguments in {"create": [out, handle, handle, error], "destroy": [out],
                            "denoise": [handle, handle, handle, handle, out, error]}.items():
        function = getattr(imagine._lib(), f"imagine_sampler_{name}")
        function.restype, function.argtypes = ctypes.c_int32, arguments
    options.imagine = imagine
    options.context = imagine.Context(threads=options.threads, cpu_level=options.cpu_level)


def bench(options, entry):
    """One row of `imagine bench`; "peak": the first."""
    command = [str(options.build / "examples/imagine"), "bench", "--json", "--filter", entry, "--threads", str(options.threads),
               "--cpu-level", options.cpu_level]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["kernels"]
    return rows[0] if entry == "peak" else next(row for row in rows if row["name"] == entry)


# ---- measuring -------------------------------------------------------------------------------------------------------

class Table:
    def __init__(self, peak):
        self.peak = peak
        print(f"| {'':36} | imagine s | GFLOP/s | of peak | PyTorch s | GFLOP/s | of peak | ratio | NMSE |")
        print("|" + "---|" * 9)

    def row(self, name, operations, ours, theirs, error=None):
        rates = [operations / s * 1e-9 for s in (ours, theirs)]
        cells = [f"{name:36}"]
        for seconds, rate in zip((ours, theirs), rates):
            cells += [f"{seconds:.4f}", f"{rate:.1f}", f"{100 * rate / self.peak:.0f}%"]
        print("| " + " | ".join(cells + [f"{theirs / ours:.2f}", "" if error is None else f"{error:.1e}"]) + " |", flush=True)


def seconds(call):
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def beside(runs, ours, theirs):
    """The fastest of each, in turn, after one run of both; and how far apart the results are."""
    a, b = np.asarray(ours()), np.asarray(theirs())
    error = float(((a.astype("f8") - b) ** 2).sum() / (b.astype("f8") ** 2).sum())
    times = [(seconds(ours)[0], seconds(theirs)[0]) for _ in range(runs)]
    return min(t[0] for t in times), min(t[1] for t in times), error


def fastest(call, enough=0.5):
    call()
    times = []
    while len(times) < 3 or sum(times) < enough:
        times.append(seconds(call)[0])
    return min(times)


def bandwidth():
    """Bytes a second that all threads read and copy."""
    x, y = torch.ones(1 << 27), torch.empty(1 << 27)
    return x.nbytes / fastest(x.sum), 2 * x.nbytes / fastest(lambda: y.copy_(x))


# ---- what is compared ------------------------------------------------------------------------------------------------

def product(entry, dtype):
    """PyTorch's side of an entry of `imagine bench`."""
    kind, *words = entry.split()
    if kind == "linear":
        m, k, n = map(int, words[0].split("x"))
        x, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        return 2 * m * k * n, lambda: F.linear(x, w)
    if kind == "conv":
        height, width = map(int, words[1].split("x"))
        cin, cout = map(int, words[2].split(">"))
        x, w = torch.randn(1, cin, 3, height + 2, width + 2), torch.randn(cout, cin, 3, 3, 3)
        x, w = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, w))
        return 2 * 27 * height * width * cin * cout, lambda: F.conv3d(x, w)
    heads, d = map(int, words[0].split("x"))
    tokens = int(words[1])
    q, k, v = (torch.randn(1, heads, tokens, d, dtype=dtype) for _ in range(3))
    return 4 * heads * d * tokens * tokens, lambda: F.scaled_dot_product_attention(q, k, v)


def products(options, table, folder):
    for entry in PRODUCTS if options.torch == torch.float32 else ROUNDED:
        operations, call = product(entry, options.torch)
        theirs = fastest(call)
        table.row(entry, operations, bench(options, entry)["seconds"], min(theirs, fastest(call)))


def randomize(model, seed=1):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) / (p[0].numel() ** 0.5 if p.ndim > 1 else 4))
    return model.eval()


def save(options, model, folder):
    """With --weights bf16 both sides have the rounded values, PyTorch widened to f32 unless it is to compute in bf16."""
    if options.weights == "bf16":
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    model.to(options.torch)


def dit_operations(tokens):
    linear = tokens * (6 * WIDTH * WIDTH + 2 * WIDTH * FFN) + TEXT_TOKENS * 2 * WIDTH * WIDTH
    return LAYERS * (2 * linear + 4 * tokens * (tokens + TEXT_TOKENS) * WIDTH)


def dit(options, table, folder):
    theirs = randomize(WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=FFN, num_layers=LAYERS,
                                             text_dim=TEXT_DIM))
    save(options, theirs, folder / "transformer")
    with Stage(options, "sampler", folder) as ours:
        for frames, height, width in LATENT_SIZES:
            values = (torch.randn(1, 16, frames, height, width), torch.tensor([500.0]), torch.randn(1, TEXT_TOKENS, TEXT_DIM))
            buffers = [options.imagine.Buffer.copy_of(options.context, v.numpy()) for v in values]
            pointers = [b._pointer for b in buffers]
            given = [v.to(options.torch) for v in values]
            times = beside(options.runs, lambda: ours.call("denoise", *pointers)[0], lambda: theirs(*given).sample.float())
            tokens = frames * height * width // 4
            table.row(f"transformer, {LAYERS} layers, {tokens} tokens", dit_operations(tokens), *times)


def vae(options, table, folder):
    theirs = randomize(AutoencoderKLWan())
    save(options, theirs, folder / "vae")
    z = torch.randn(1, 16, 2, 17, 30)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (theirs.config.latents_mean, theirs.config.latents_std))
    scaled = (z * std + mean).to(options.torch)
    with FlopCounterMode(display=False) as counter:
        theirs.decode(scaled)
    latents = options.imagine.Buffer.copy_of(options.context, z[0].numpy())
    with Stage(options, "vae", folder) as ours:
        times = beside(options.runs, lambda: ours.call("decode", latents._pointer, FLOAT32)[0],
                       lambda: theirs.decode(scaled).sample[0].float())
    table.row("VAE decode, 240x136, 5 frames", counter.get_total_flops(), *times)


def text_operations(tokens):
    linear = 4 * XXL["d_model"] * XXL["d_kv"] * XXL["num_heads"] + 3 * XXL["d_model"] * XXL["d_ff"]
    return XXL["num_layers"] * (2 * tokens * linear + 4 * tokens * tokens * XXL["d_kv"] * XXL["num_heads"])


def text(options, table, folder):
    """The tokenizer is the shipped model's, so the vocabulary is small; it does not enter into the time."""
    tokenizer = TOP / "models/tiny/tokenizer"
    vocabulary = len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    theirs = randomize(UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **XXL)))
    save(options, theirs, folder / "text_encoder")
    (folder / "tokenizer").symlink_to(tokenizer)
    for tokens in (77, 512):
        prompt = " ".join("a" * (tokens * 2)).encode()  # cut to the length
        (folder / "imagine.json").write_text(json.dumps({"text_length": tokens}))
        with Stage(options, "text", folder) as ours:
            ids = ours.call("encode", prompt, results=2)[0]
            given = torch.tensor(ids.copy()).long()[None]
            times = beside(options.runs, lambda: ours.call("encode", prompt, results=2)[1],
                           lambda: theirs(given).last_hidden_state[0].float())
        table.row(f"umT5-XXL, {XXL['num_layers']} layer, {len(ids)} tokens", text_operations(len(ids)), *times)


PARTS = {"products": products, "dit": dit, "vae": vae, "text": text}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(PARTS), metavar="NAME")
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-level", default="best")
    parser.add_argument("--weights", choices=["f32", "bf16"], default="f32", help="as the files store them")
    parser.add_argument("--torch", choices=["f32", "bf16"], default="f32", help="what PyTorch computes in")
    options = parser.parse_args()
    options.torch = torch.bfloat16 if options.torch == "bf16" else torch.float32
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    load_library(options)
    peak = bench(options, "peak")["gflops"]
    reading, copying = bandwidth()
    print(f"libimagine {options.imagine.version()} ({options.context.info['cpu_level']}), PyTorch {torch.__version__}, "
          f"{options.threads} threads, {options.weights} weights, PyTorch in {str(options.torch)[6:]}; peak {peak:.1f} GFLOP/s, memory {reading * 1e-9:.1f} GB/s read, "
          f"{copying * 1e-9:.1f} GB/s copied\n")
    table = Table(peak)
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](options, table, pathlib.Path(folder))


if __name__ == "__main__":
    main()
