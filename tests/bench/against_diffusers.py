#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prompt to frames of one model, libimagine beside diffusers' WanPipeline, turn by turn in one run and with the same number of
threads. Needs PyTorch and diffusers; the first call of each is not counted. Prints a table, or JSON with --json."""
import argparse
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings" / "python"))


def timed(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def reference(args):
    """A function that runs WanPipeline once in f32, decoding included."""
    import torch
    from diffusers import WanPipeline
    torch.set_num_threads(args.threads)
    pipe = WanPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    size = dict(height=args.height, width=args.width, num_frames=args.frames)
    return lambda: pipe(args.prompt, negative_prompt="", num_inference_steps=args.steps, guidance_scale=args.guidance,
                        max_sequence_length=pipe.tokenizer.model_max_length, output_type="np", **size)


def ours(args):
    import imagine
    model = imagine.open(args.model, imagine.Context(threads=args.threads))
    return lambda: model.generate(args.prompt, "", steps=args.steps, guidance=args.guidance, width=args.width,
                                  height=args.height, frames=args.frames)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "models" / "tiny"), help="pack that both open")
    parser.add_argument("--prompt", default="a red apple bouncing")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    calls = {"libimagine": ours(args), "diffusers": reference(args)}
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    best = {name: min(times) for name, times in seconds.items()}
    if args.json:
        print(json.dumps({"seconds": seconds, "best": best, "ratio": best["diffusers"] / best["libimagine"]}))
        return
    print(f"{args.width}x{args.height}, {args.frames} frames, {args.steps} steps, {args.threads} threads, best of {args.rounds}")
    for name, value in best.items():
        print(f"  {name:12} {value:8.3f} s")
    print(f"  libimagine is {best['diffusers'] / best['libimagine']:.1f} times as fast")


if __name__ == "__main__":
    main()
