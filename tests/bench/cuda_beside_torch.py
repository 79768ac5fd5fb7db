# SPDX-License-Identifier: MIT
"""`imagine bench --device cuda` beside PyTorch on the same GPU, in one run.

    python tests/bench/cuda_beside_torch.py [NAME...] [--program build/examples/imagine] [--precision bf16|f32] [--quick]

Prints every row of `imagine bench`, and beside it what PyTorch takes for the same: attention (scaled_dot_product_attention with
its cuDNN and its flash backend), linear layers, convolutions, norms, each as it comes and compiled; with diffusers also one
step of the transformer and the frames out of the VAE. NAMEs are words of which one must stand in a row's name. Without PyTorch,
or without its CUDA, PyTorch's columns stay empty. --quick: tiny sizes, which show only that all of it runs; then PyTorch
computes on the CPU where it has no CUDA."""

import argparse
import json
import pathlib
import re
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parents[2]

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    torch = None


class Timer:
    def __init__(self, device):
        self.device = device

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call, quick):
        """As imagine bench: the best of three times as many runs as take a tenth of a second."""
        runs, best = 1, float("inf")
        for turn in range(2 if quick else 5):
            begin = time.perf_counter()
            for _ in range(runs):
                call()
            self.wait()
            each = (time.perf_counter() - begin) / runs
            if turn == 1:
                runs = max(1, round(0.1 / each))
            if turn > 1 or quick:
                best = min(best, each)
            if each > 1 and turn:
                return each
        return best


def compiled(call):
    """torch.compile where it works: a failure shows in the first call."""
    made = torch.compile(call)
    made()
    return made


def attention(words, device):
    heads, d = map(int, words[0].split("x"))
    q, k, v = (torch.randn(1, heads, int(words[1]), d, device=device, dtype=torch.bfloat16) for _ in range(3))

    def with_backend(backend):
        def call():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)
        return call

    return {"cuDNN": with_backend(SDPBackend.CUDNN_ATTENTION), "flash": with_backend(SDPBackend.FLASH_ATTENTION)}


def dtype_of(words):
    return torch.float32 if words[-1] == "f32" else torch.bfloat16


def linear(words, device):
    m, k, n = map(int, words[0].split("x"))
    dtype = dtype_of(words)
    x, w, b = (torch.randn(*s, device=device, dtype=dtype) for s in ((m, k), (n, k), (n,)))
    y = torch.randn(m, n, device=device, dtype=dtype)

    def call():
        z = F.linear(x, w, b)
        if "gelu" in words:
            z = F.gelu(z, approximate="tanh")
        return y + b * z if "gate" in words else z

    return {"eager": call, "compiled": lambda: compiled(call)}


def conv(words, device):
    height, width = map(int, words[1].split("x"))
    cin, cout = map(int, words[2].split(">"))
    dtype = dtype_of(words)
    x = torch.randn(1, cin, 3, height, width, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    w = torch.randn(cout, cin, 3, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    b = torch.randn(cout, device=device, dtype=dtype)
    return {"eager": lambda: F.conv3d(x, w, b, padding=(0, 1, 1))}


def norm(name, device):
    rows, dim = map(int, name.split()[-1].split("x"))
    x, y, delta = (torch.randn(rows, dim, device=device) for _ in range(3))
    scale, shift, gate = (torch.randn(dim, device=device) for _ in range(3))

    def modulated():
        z = x + gate * delta
        return z, F.layer_norm(z, (dim,)) * (1 + scale) + shift

    def turned():
        z = F.rms_norm(x, (dim,), scale).view(rows, -1, 2)
        cosines, sines = y.view(rows, -1, 2).unbind(-1)
        return torch.stack((z[..., 0] * cosines - z[..., 1] * sines, z[..., 0] * sines + z[..., 1] * cosines), -1)

    def softened():
        return F.silu(F.normalize(x, dim=-1) * scale)

    calls = {"sum": modulated, "QK": turned, "VAE": softened}
    call = calls.get(re.split(r"[ ,]", name)[0])
    return {"eager": call, "compiled": lambda: compiled(call)} if call else {}


def transformer(name, device, dtype):
    from diffusers import WanTransformer3DModel
    layers, dim, tokens = map(int, re.search(r"(\d+) layers of (\d+), (\d+) tokens", name).groups())
    large = dim == 1536
    size = {32760: (21, 60, 104, 512), 390: (1, 30, 52, 512), 12: (2, 4, 6, 7), 6: (1, 4, 6, 7)}[tokens]
    model = WanTransformer3DModel(num_attention_heads=12 if large else 2, attention_head_dim=128 if large else 16,
                                  ffn_dim=8960 if large else 48, num_layers=layers, text_dim=4096 if large else 24)
    model = model.to(device, dtype).eval()
    x = torch.randn(1, 16, *size[:3], device=device, dtype=dtype)
    text = torch.randn(1, size[3], model.config.text_dim, device=device, dtype=dtype)
    when = torch.tensor([500.0], device=device)

    def call():
        return model(x, when, text).sample

    return {"eager": call, "compiled": lambda: compiled(call)}


def vae(name, device, dtype):
    """A clip of a latent frame more than one is decoded; what counts is the later ones, so two lengths are taken apart."""
    from diffusers import AutoencoderKLWan
    width, height = map(int, re.search(r"(\d+)x(\d+)", name).groups())
    base = 96 if width > 16 else 8
    model = AutoencoderKLWan(base_dim=base).to(device, dtype).eval()

    def decode(frames):
        z = torch.randn(1, 16, frames, height // 8, width // 8, device=device, dtype=dtype)
        return lambda: model.decode(z).sample

    return {"eager": (decode(4), decode(2), 8)}


def theirs(row, options, timer):
    """{way: seconds} of PyTorch for a row; what it cannot do is left out, with a line that says why."""
    name, kind, device, words = row["name"], row["kind"], timer.device, row["name"].split()[1:]
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    makers = {"attention": lambda: attention(words, device) if words[-1] == "bf16" and len(words) == 4 else {},
              "linear": lambda: linear(words, device), "conv": lambda: conv(words, device), "norm": lambda: norm(name, device),
              "transformer": lambda: transformer(name, device, dtype), "vae": lambda: vae(name, device, dtype)}
    found = {}
    try:
        ways = makers.get(kind, dict)()
    except (ImportError, RuntimeError) as error:
        return found, [f"{name}: PyTorch: {str(error).splitlines()[0]}"]
    notes = []
    for way, call in ways.items():
        try:
            if isinstance(call, tuple):
                long, short, frames = call
                taken = timer.seconds(long, options.quick) - timer.seconds(short, options.quick)
                found[way] = taken / frames * 4
            else:
                found[way] = timer.seconds(call() if way == "compiled" else call, options.quick)
        except Exception as error:  # a backend or a compiler that does not want this one
            notes.append(f"{name}: PyTorch, {way}: {(str(error) or type(error).__name__).splitlines()[0]}")
    return found, notes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--program", default=str(TOP / "build/examples/imagine"))
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", help="for the clips a second; the shipped one")
    options = parser.parse_args()
    command = [options.program, "bench", "--device", "cuda", "--precision", options.precision, "--json"]
    command += ["--quick"] * options.quick + (["--model", options.model] if options.model else [])
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    cuda = torch is not None and torch.cuda.is_available()
    timer = Timer("cuda" if cuda else "cpu") if cuda or (torch is not None and options.quick) else None
    print(f"libimagine {told['version']} on {told['device']}, precision {told['precision']}"
          + (", EMULATED: no number here says anything about a GPU" if told["emulated"] else ""))
    print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name() if cuda else timer.device}" if timer else
          "PyTorch with CUDA is not here")
    if torch is not None:
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print("| | imagine ms | | share | PyTorch ms | times as fast |\n|" + "---|" * 6)
    notes = []
    for row in told["kernels"]:
        if options.names and not any(name in row["name"] for name in options.names):
            continue
        if "left_out" in row:
            notes.append(f"{row['name']}: {row['left_out']}")
            continue
        found, more = theirs(row, options, timer) if timer else ({}, [])
        notes += more
        ways = ", ".join(f"{way} {1e3 * s:.4g}" for way, s in found.items())
        ratio = f"{min(found.values()) / row['seconds']:.2f}" if found and not told["emulated"] else ""
        print(f"| {row['name']} | {1e3 * row['seconds']:.4g} | {row['value']:.4g} {row['unit']} | "
              f"{100 * row['share']:.0f}% | {ways} | {ratio} |", flush=True)
    for clip in told["generations"]:
        print(f"\n{clip['width']}x{clip['height']}, {clip['frames']} frames, {clip['steps']} steps: "
              f"{clip['clips_per_second']:.2f} clips a second")
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
