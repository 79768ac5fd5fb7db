# SPDX-License-Identifier: MIT
"""`imagine bench --device cuda` beside PyTorch on the same GPU, in one run.

    python tests/bench/cuda_beside_torch.py [NAME...] [--program build/examples/imagine] [--precision bf16|f32] [--quick]

The program is that of `build`, or where there is none what tests/run --gpu --build made. The module beside it is found, and cuBLASLt and
cuDNN where Python's packages or the toolkit have them.

Prints every row of `imagine bench`, and beside it what PyTorch takes for the same: attention (scaled_dot_product_attention with
its cuDNN and its flash backend, in f32 the memory-efficient one), linear layers, convolutions, norms, each as it comes and
compiled; with diffusers also one step of the transformer and the frames out of the VAE. NAMEs are words of which one must stand in a row's name. Without PyTorch,
or without its CUDA, PyTorch's columns stay empty. --quick: tiny sizes, which show only that all of it runs; then PyTorch
computes on the CPU where it has no CUDA.

What matters most comes first, a group of rows from a process of its own, and each row is printed once it is there: imagine's and
PyTorch's take turns on the GPU. What torch.compile makes, which takes long, comes at the end. After --seconds nothing more is
begun; the table at the end has what was measured until then."""

import argparse
import contextlib
import functools
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
GROUPS = ("attention", "layers of", "linear", "VAE decode", "launch", "norm", "model", "conv", "modulation of", "sampler")

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


def dtype_of(words):
    return torch.float32 if "f32" in words else torch.bfloat16


def attention(words, device):
    heads, d = map(int, words[0].split("x"))
    q, k, v = (torch.randn(1, heads, int(words[1]), d, device=device, dtype=dtype_of(words)) for _ in range(3))

    def way(backend):
        call = functools.partial(F.scaled_dot_product_attention, q, k, v)
        return sdpa_kernel(backend), call  # entered once, not in each call

    if "f32" in words:
        return {"memory-efficient": way(SDPBackend.EFFICIENT_ATTENTION)}
    return {"cuDNN": way(SDPBackend.CUDNN_ATTENTION), "flash": way(SDPBackend.FLASH_ATTENTION)}


def linear(words, device):
    m, k, n = map(int, words[0].split("x"))
    dtype = dtype_of(words)
    x, b, y = (torch.randn(*s, device=device, dtype=dtype) for s in ((m, k), (n,), (m, n)))
    # Of few rows W comes from memory, as in imagine bench, and not from the L2 cache: so many take turns.
    count = 1 if m > 8 else min(16, 1 + (2 << 27) // (k * n * x.element_size()))
    weights = itertools.cycle([torch.randn(n, k, device=device, dtype=dtype) for _ in range(count)])

    def layer(w):
        z = F.linear(x, w, b)
        if "gelu" in words:
            z = F.gelu(z, approximate="tanh")
        return y + b * z if "gate" in words else z

    def compiled_layer():
        made = torch.compile(layer)
        made(next(weights))
        return lambda: made(next(weights))

    return {"eager": lambda: layer(next(weights)), "compiled": compiled_layer}


def conv(words, device):
    height, width = map(int, words[1].split("x"))
    cin, cout = map(int, words[2].split(">"))
    dtype = dtype_of(words)
    x = torch.randn(1, cin, 3, height, width, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    w = torch.randn(cout, cin, 3, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    b = torch.randn(cout, device=device, dtype=dtype)
    return {"eager": lambda: F.conv3d(x, w, b, padding=(0, 1, 1))}


def norm(name, device):
    rows, dim = map(int, re.search(r"(\d+)x(\d+)", name).groups())
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
        y = F.silu(F.normalize(x, dim=-1) * scale)
        return y.bfloat16() if name.endswith("to bf16") else y

    calls = {"sum": modulated, "QK": turned, "VAE": softened}
    call = calls.get(re.split(r"[ ,]", name)[0])
    return {"eager": call, "compiled": lambda: compiled(call)} if call else {}


@functools.lru_cache(maxsize=1)
def wan(layers, dim, device, dtype):
    from diffusers import WanTransformer3DModel
    large = dim == 1536
    with torch.device(device):  # random numbers of 1.3 billion weights would take a processor long
        model = WanTransformer3DModel(num_attention_heads=12 if large else 2, attention_head_dim=128 if large else 16,
                                      ffn_dim=8960 if large else 48, num_layers=layers, text_dim=4096 if large else 24)
    return model.to(device, dtype).eval()


def transformer(name, device, dtype):
    layers, dim, tokens = map(int, re.search(r"(\d+) layers of (\d+), (\d+) tokens", name).groups())
    size = {32760: (21, 60, 104, 512), 390: (1, 30, 52, 512), 12: (2, 4, 6, 7), 6: (1, 4, 6, 7)}[tokens]
    model = wan(layers, dim, device, dtype)
    x = torch.randn(1, 16, *size[:3], device=device, dtype=dtype)
    text = torch.randn(1, size[3], model.config.text_dim, device=device, dtype=dtype)
    when = torch.tensor([500.0], device=device)

    def call():
        return model(x, when, text).sample

    def compiled_blocks():
        """A block is compiled once, for all of them: the whole model would take minutes."""
        for block in model.blocks:
            block.compile()
        call()
        return call

    return {"eager": call, "compiled": compiled_blocks}


def vae(name, device, dtype):
    """A clip of a latent frame more than one is decoded; what counts is the later ones, so two lengths are taken apart."""
    from diffusers import AutoencoderKLWan
    width, height = map(int, re.search(r"(\d+)x(\d+)", name).groups())
    with torch.device(device):
        model = AutoencoderKLWan(base_dim=96 if width > 16 else 8)
    model = model.to(device, dtype).eval()

    def decode(frames):
        z = torch.randn(1, 16, frames, height // 8, width // 8, device=device, dtype=dtype)
        return lambda: model.decode(z).sample

    return {"eager": (decode(4), decode(2), 8)}


def ways_of(row, device):
    """{way: what to time} of PyTorch for a row."""
    name, kind, words = row["name"], row["kind"], row["name"].split()[1:]
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    makers = {"attention": lambda: attention(words, device) if len(words) == 4 else {}, # not what is rounded first
              "linear": lambda: linear(words, device), "conv": lambda: conv(words, device), "norm": lambda: norm(name, device),
              "transformer": lambda: transformer(name, device, dtype), "vae": lambda: vae(name, device, dtype)}
    return makers.get(kind, dict)()


def seconds_of(way, call, timer, quick):
    if way == "compiled":
        return timer.seconds(call(), quick)
    if not isinstance(call, tuple):
        return timer.seconds(call, quick)
    if len(call) == 2:
        with call[0]:
            return timer.seconds(call[1], quick)
    long, short, frames = call
    return (timer.seconds(long, quick) - timer.seconds(short, quick)) / frames * 4


class Beside:
    """PyTorch's times; the same work under another name is measured once."""

    def __init__(self, timer, options):
        self.timer, self.options, self.found, self.notes = timer, options, {}, []

    @staticmethod
    def key(row):
        return re.sub(" by cuBLASLt| by cuDNN| without graphs", "", row["name"])

    def measure(self, row, compiles):
        """The ways that torch.compile makes, or the others. What PyTorch cannot do is left out, with a line that says why."""
        found = self.found.setdefault(self.key(row), {})
        if (self.key(row), compiles) in found or time.monotonic() > self.options.until:
            return
        found[self.key(row), compiles] = None
        try:
            ways = ways_of(row, self.timer.device)
        except (ImportError, RuntimeError) as error:
            self.notes.append(f"{row['name']}: PyTorch: {str(error).splitlines()[0]}")
            return
        for way, call in ways.items():
            if (way == "compiled") != compiles:
                continue
            try:
                found[way] = seconds_of(way, call, self.timer, self.options.quick)
            except Exception as error:  # a backend or a compiler that does not want this one
                self.notes.append(f"{row['name']}: PyTorch, {way}: {(str(error) or type(error).__name__).splitlines()[0]}")

    def times(self, row):
        return {way: s for way, s in self.found.get(self.key(row), {}).items() if s is not None}


def surroundings(program):
    """The environment in which the program finds the module that was built with it, and cuBLASLt and cuDNN where Python has them."""
    sys.path.insert(0, str(TOP / "tests"))
    import gpu
    module = [program.parents[1] / "kernels/cuda", *([gpu.BUILD, gpu.CARRIED] if gpu.LIBRARY in program.parents else [])]
    folders = [os.environ.get("LD_LIBRARY_PATH"), *map(str, filter(pathlib.Path.is_dir, module)), *gpu.find_libraries(None)]
    return dict(os.environ, LD_LIBRARY_PATH=":".join(filter(None, folders)))


def default_program():
    """What meson built, or what tests/run --gpu --build did, perhaps elsewhere."""
    built = TOP / "build/examples/imagine", TOP / "build-gpu/library/examples/imagine"
    return next((path for path in built if path.exists()), built[0])


def imagine(group, options):
    """(what it said of itself, rows, generations, what went wrong) of one run; of one that failed, what it had printed."""
    command = [options.program, "bench", "--device", "cuda", "--precision", options.precision, "--json", "--filter", group]
    command += ["--quick"] * options.quick + (["--model", options.model] if group == "model" else [])
    wrong = ""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                              env=surroundings(options.program), timeout=min(options.each, max(20, options.until - time.monotonic())))
        text, wrong = done.stdout, done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        text, wrong = (late.stdout or b"").decode(), "was not done in time"
    head = re.match(r'(\{"version".*?),\s*"kernels"', text, re.S)
    rows = [json.loads(found) for found in re.findall(r'\{"name".*?\}', text)]
    clips = [json.loads(found) for found in re.findall(r'\{"width".*?\}', text)]
    return json.loads(head.group(1) + "}") if head else {}, rows, clips, f"imagine bench --filter '{group}': {wrong}" if wrong else ""


def line_of(row, beside, emulated):
    found = beside.times(row) if beside else {}
    ways = ", ".join(f"{way} {1e3 * s:.4g}" for way, s in found.items())
    ratio = f"{min(found.values()) / row['seconds']:.2f}" if found and not emulated else ""
    return (f"| {row['name']} | {1e3 * row['seconds']:.4g} | {row['value']:.4g} {row['unit']} | {100 * row['share']:.0f}% | {ways} | "
            f"{ratio} |")


def introduce(told, cuda, timer):
    print(f"libimagine {told['version']} on {told['device']}, precision {told['precision']}"
          + (", EMULATED: no number here says anything about a GPU" if told["emulated"] else ""))
    print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name() if cuda else timer.device}" if timer else
          "PyTorch with CUDA is not here")


HEAD = "| | imagine ms | | share | PyTorch ms | times as fast |\n|" + "---|" * 6


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--program", type=lambda path: pathlib.Path(path).resolve(), default=default_program())
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=3600, metavar="N", help="after which nothing more is begun")
    parser.add_argument("--each", type=float, default=900, metavar="N", help="seconds that a run of imagine may take")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--model", default=str(TOP / "models/tiny"), help="for the clips a second; the shipped one")
    options = parser.parse_args()
    options.until = time.monotonic() + options.seconds
    return options


def main():
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)
    cuda = torch is not None and torch.cuda.is_available()
    timer = Timer("cuda" if cuda else "cpu") if cuda or (torch is not None and options.quick) else None
    if torch is not None:
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    beside = Beside(timer, options) if timer else None
    all_rows, notes, told = {}, [], None
    for group in options.names or GROUPS:
        if time.monotonic() > options.until:
            notes.append(f"imagine bench --filter '{group}': no time was left")
            continue
        if cuda:
            torch.cuda.empty_cache()  # the memory is imagine's now
        head, rows, clips, wrong = imagine(group, options)
        notes += [wrong] if wrong else []
        if head and not told:
            told = head
            introduce(told, cuda, timer)
            print(HEAD)
        for row in rows:
            if row["name"] in all_rows:
                continue
            if "left_out" in row:
                notes.append(f"{row['name']}: {row['left_out']}")
                continue
            all_rows[row["name"]] = row
            if beside:
                beside.measure(row, False)
            print(line_of(row, beside, row["emulated"]))
        for clip in clips:
            print(f"{clip['width']}x{clip['height']}, {clip['frames']} frames, {clip['steps']} steps: "
                  f"{clip['clips_per_second']:.2f} clips a second, the first with loading")
    for row in all_rows.values():
        if beside and not options.no_compile and row["kind"] in ("norm", "transformer", "linear"):
            beside.measure(row, True)
            print(line_of(row, beside, row["emulated"]))
    if beside:
        print("\n" + HEAD + "\n" + "\n".join(line_of(row, beside, row["emulated"]) for row in all_rows.values()))
    notes += beside.notes if beside else []
    print("\n" + "\n".join(notes))
    sys.exit(0 if told else 1)


if __name__ == "__main__":
    main()
