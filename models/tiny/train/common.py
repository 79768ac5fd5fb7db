# SPDX-License-Identifier: MIT
"""What the training stages share: state folder, optimiser, schedule, running average, checkpoints."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

GENTLE, GENTLE_DECAY = 0.25, 0.1  # share of the learning rate, and decay of weights
THREADS = int(os.environ.get("IMAGINE_TRAIN_THREADS", 2))
FINE = os.environ.get("IMAGINE_TRAIN_FINE", "0") != "0"  # a token for every latent of the 128x128 model, not for 2x2
DEVICE = "cpu"  # what prepare() was told


def arguments(description):
    """The options that every stage has."""
    default = os.environ.get("IMAGINE_TRAIN_STATE", Path(__file__).resolve().parents[4] / "train-state")
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--state", type=Path, default=Path(default),
                        help="folder for checkpoints, latents and sheets (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to test the scripts")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    return parser


def for_a_gpu(parser):
    """The options of a stage that can also be given a time, larger batches and scenes that other processes draw meanwhile."""
    parser.add_argument("--minutes", type=float, help="train for so long instead of so many steps")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="batches N times as large (default: %(default)s)")
    parser.add_argument("--drawers", type=int, default=0, metavar="N",
                        help="processes that draw new scenes meanwhile; without, those encoded before (default: %(default)s)")
    return parser


def prepare(args):
    global DEVICE
    DEVICE = args.device
    torch.set_num_threads(THREADS)
    if DEVICE != "cpu":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    args.state.mkdir(parents=True, exist_ok=True)


def autocast():
    return torch.autocast(DEVICE, torch.bfloat16)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Newton-Schulz), for weights with two or more axes.

    Matrices of one shape are orthogonalised together.
    """

    team = None  # whose members share the work, with the same gradients each

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.flatten(1).shape, []).append(p)
            directions = [self.directions(members, group) for members in shapes.values()]
            found = self.team.divided(orthogonal, directions) if self.team else [orthogonal(d) for d in directions]
            for (shape, members), updates in zip(shapes.items(), found):
                updates *= 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(members, [u.view_as(p) for p, u in zip(members, updates)], alpha=-group["lr"])

    def directions(self, members, group):
        """The gradients ahead of their momenta, [n, rows, columns]."""
        for p in members:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients, momenta = [p.grad for p in members], [self.state[p]["momentum"] for p in members]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        return torch.stack([a.flatten(1) for a in ahead])


def orthogonal(g):
    """The nearest matrices [n, rows, columns] with singular values near 1: four quintic Newton-Schulz steps in bf16."""
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT.contiguous() if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(4):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return (x.mT if tall else x).float()


class Optimisers:
    """Muon for the matrices, AdamW for the rest, and a slow AdamW for `gentle`, all following one schedule of step numbers."""

    def __init__(self, matrices, others, lr, total, warmup, decay, weight_decay=0.0, gentle=()):
        groups = [dict(params=others, weight_decay=0.0)]
        if gentle:
            groups.append(dict(params=gentle, weight_decay=GENTLE_DECAY, share=GENTLE))
        self.all = [Muon(matrices, lr, weight_decay=weight_decay), torch.optim.AdamW(groups, lr, betas=(0.9, 0.98))]
        self.lr, self.total, self.warmup, self.decay = lr, total, warmup, decay
        self.finished = False
        self.position = lambda step: step  # in the plan, where steps go by the clock

    def rate(self, step):
        return min(1.0, (step + 1) / self.warmup, max(0.0, (self.total - self.position(step)) / self.decay))

    def finish(self, step):
        """Ends the stage early: the decay begins at `step`."""
        self.total, self.finished = min(self.total, step + self.decay), True

    def apply(self, step):
        for o in self.all:
            for group in o.param_groups:
                group["lr"] = self.lr * self.rate(step) * group.get("share", 1.0)
            o.step()
            o.zero_grad(set_to_none=True)

    def state(self):
        return {"all": [o.state_dict() for o in self.all], "finish": self.total if self.finished else None}

    def load(self, state):
        for o, s in zip(self.all, state["all"]):
            o.load_state_dict(s)
        if state.get("finish"):
            self.total, self.finished = min(self.total, state["finish"]), True


def split(named):
    """Weights for Muon (two or more axes that matter) and the rest."""
    named = [(n, p) for n, p in named if p.requires_grad]
    def matrix(p):
        return p.ndim >= 2 and p.shape[0] > 3 and p[0].numel() > 1
    return [p for _, p in named if matrix(p)], [p for _, p in named if not matrix(p)]


class Average:
    """An exponential moving average of parameters whose length grows with the run up to `limit`."""

    def __init__(self, module, limit):
        self.values = {n: p.detach().clone() for n, p in module.named_parameters()}
        self.limit = limit

    @torch.no_grad()
    def update(self, module, step):
        keep = min(self.limit, (step + 1) / (step + 10))
        named = dict(module.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [named[n] for n in self.values], 1 - keep)

    def store_into(self, module):
        module.load_state_dict(self.values, strict=False)


def save(path, **content):
    """Writes a checkpoint so that a crash leaves the old one."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def load(path):
    return torch.load(path, weights_only=True, map_location=DEVICE) if path.exists() else None


class Team:
    """Processes that train one model, each with batches of its own: all make the same step with the mean of their gradients.

    The first starts the others, which are this program again with a rank in the environment.
    """

    def __init__(self, size, state):
        self.size, self.rank = size, int(os.environ.get("IMAGINE_TRAIN_RANK", 0))
        self.last = time.process_time()
        if size == 1:
            return
        meeting = state / "team"
        if self.rank == 0:
            meeting.unlink(missing_ok=True)
            for rank in range(1, size):
                subprocess.Popen([sys.executable, *sys.argv], env=dict(os.environ, IMAGINE_TRAIN_RANK=str(rank)))
        self.store = torch.distributed.FileStore(str(meeting), size)
        torch.distributed.init_process_group("gloo", store=self.store, rank=self.rank, world_size=size)

    def share(self, module, samples):
        """Gives every parameter the mean gradient; returns the others' processor time since the last call, in seconds, and
        the samples of all."""
        if self.size == 1:
            return 0.0, samples
        own, self.last = time.process_time() - self.last, time.process_time()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients] + [torch.tensor([own, float(samples)])])
        torch.distributed.all_reduce(flat)
        for g, mean in zip(gradients, flat[:-2].div_(self.size).split([g.numel() for g in gradients])):
            g.copy_(mean.view_as(g))
        return flat[-2].item() - own, round(flat[-1].item())

    def divided(self, work, stacks):
        """work(stack) of tensors that all have, each member doing its part of every stack's rows."""
        if self.size == 1:
            return [work(stack) for stack in stacks]
        flat = torch.zeros(sum(stack.numel() for stack in stacks))
        parts = [part.view_as(stack) for part, stack in zip(flat.split([stack.numel() for stack in stacks]), stacks)]
        for part, stack in zip(parts, stacks):
            if len(stack) > self.rank:
                part[self.rank::self.size] = work(stack[self.rank::self.size])
        torch.distributed.all_reduce(flat)
        return parts

    def any(self, flag):
        """True for all where it is for one."""
        if self.size == 1:
            return flag
        count = torch.tensor([float(flag)])
        torch.distributed.all_reduce(count)
        return count.item() > 0

    def leave(self):
        """Waits for all: who ends takes its connections along, of which another may still be reading the last results."""
        if self.size == 1:
            return
        there = self.store.add("leaving", 1)
        while there < self.size:
            time.sleep(0.05)
            there = self.store.add("leaving", 0)


class Clock:
    """Where a stage that is given minutes is in its plan of `total` steps; of a time without questions, being paused, LONGEST counts."""

    LONGEST = 5.0  # seconds, of a step

    def __init__(self, minutes, total):
        self.minutes, self.total = minutes, total
        self.passed, self.last = 0.0, None

    def __call__(self, step):
        if not self.minutes:
            return step
        now = time.monotonic()
        self.passed += min(now - (self.last or now), self.LONGEST)
        self.last = now
        return min(1.0, self.passed / (60 * self.minutes)) * self.total


class Meter:
    """Samples and processor time of a stage, on a GPU the time by the clock, kept across resumed runs."""

    def __init__(self, path, saved=None):
        self.path = path
        self.samples, self.cpu_before = (saved["samples"], saved["cpu"]) if saved else (0, 0.0)
        self.clock = time.process_time if DEVICE == "cpu" else time.monotonic
        self.start = self.clock()

    def cpu(self):
        return self.cpu_before + self.clock() - self.start

    def add(self, seconds, samples):
        """Processor time of other processes, and samples."""
        self.cpu_before += seconds
        self.samples += samples

    def state(self):
        return {"samples": self.samples, "cpu": self.cpu()}

    def say(self, text):
        line = f"{DEVICE} {self.cpu() / 60:6.2f} min, samples {self.samples:7d}, {text}"
        print(line, flush=True)
        with open(self.path, "a") as log:
            log.write(line + "\n")


def wants_to_finish(state, stage):
    """True when somebody made the file finish-STAGE in the state folder."""
    return (state / f"finish-{stage}").exists()
