# SPDX-License-Identifier: MIT
"""Prompt to frames: this library's second call beside the second call of diffusers' WanPipeline, on the same pack, with the
same threads, sizes, steps and guidance.

    python tests/bench/beside_diffusers.py [PACK] [--program build/examples/imagine] [--threads N] [--runs N]

Needs PyTorch, diffusers and transformers; prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import subprocess
import time

import torch
from diffusers import WanPipeline

TOP = pathlib.Path(__file__).resolve().parents[2]


def ours(options):
    command = [options.program, "bench", "--filter", "model", "--json", "--runs", str(options.runs), "--threads",
               str(options.threads), "--model", options.pack]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["generations"]


def theirs(options, settings):
    torch.set_num_threads(options.threads)
    pipe = WanPipeline.from_pretrained(options.pack, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    seconds = []
    for _ in range(options.runs):
        begin = time.perf_counter()
        pipe("a red apple", num_frames=settings["frames"], height=settings["height"], width=settings["width"],
             num_inference_steps=settings["steps"], guidance_scale=options.guidance, output_type="np",
             max_sequence_length=options.text_length, generator=torch.Generator().manual_seed(0))
        seconds.append(time.perf_counter() - begin)
    return seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pack", nargs="?", default=str(TOP / "models/tiny"))
    parser.add_argument("--program", default=str(TOP / "build/examples/imagine"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    info = json.loads(subprocess.run([options.program, "info", "--json", "--model", options.pack], check=True,
                                     capture_output=True, text=True).stdout)
    options.guidance, options.text_length = info["guidance"], info["text_length"]
    runs = ours(options)
    reference = theirs(options, runs[0])
    print(json.dumps({
        "settings": {k: runs[0][k] for k in ("width", "height", "frames", "steps")} | {"threads": options.threads,
                                                                                    "guidance": options.guidance},
        "imagine": [r["total"] for r in runs], "diffusers": [round(s, 4) for s in reference],
        "second_call_ratio": round(reference[1] / runs[1]["total"], 2)}, indent=2))


if __name__ == "__main__":
    main()
