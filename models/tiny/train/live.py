# SPDX-License-Identifier: MIT
"""Scenes that other processes draw while one trains: for a GPU, which sees every stored one dozens of times otherwise.

A drawer writes blocks of scenes as files into a folder in memory, a thread of the training process reads them. Blocks are
dictionaries of tensors, all of one kind and length; when too many wait, drawers wait, too.
"""

import itertools
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import torch

import captions
import common
import latents128
import render
import scenes
import text

WAITING = 64  # blocks
PICTURES, CLIPS = 192, 24  # of a block
TAKE_EVERY = 6  # steps: encoding costs as much as one to three of them
ROOM = {1: 400_000}  # scenes kept on the device, by frames
ROOM_OF_CLIPS = 16_000


def as_bytes(x):
    """Frames in -1..1 as bytes."""
    return x.add(1).mul(127.5).round().byte()


def as_frames(x):
    return x.float().div(127.5).sub(1)


def captioned(tok, seed):
    """Blocks for the transformer: frames, and the ids and masks of WORDINGS captions each; pictures and clips of the
    next length in turn."""
    def blocks(rank):
        stream, first = scenes.Stream(seed * 1000 + rank, step=latents128.STEP), 0
        lengths = itertools.cycle(np.roll(scenes.LENGTHS, rank))
        for number in itertools.count():
            frames = int(next(lengths)) if number % 2 else 1
            count = PICTURES if frames == 1 else CLIPS
            made = [stream.scene(first + i, frames) for i in range(count)]
            words = [captions.caption(np.random.default_rng((seed, rank, first + i, w)), s).text
                     for i, s in enumerate(made) for w in range(latents128.WORDINGS)]
            first += count
            ids, mask = text.tokens(tok, words)
            shape = count, latents128.WORDINGS, -1
            yield dict(x=as_bytes(render.batch(made, stream.store)), objects=torch.stack([latents128.objects_of(s) for s in made]).half(),
                       ids=ids.to(torch.int16).view(shape), mask=mask.to(torch.int8).view(shape))
    return blocks


def drawn(blocks, rank, folder):
    """A drawer's life: ends when its folder or its parent is gone."""
    torch.set_num_threads(1)
    os.nice(5)
    parent = os.getppid()
    for number, block in enumerate(blocks(rank)):
        part, path = folder / f"part-{rank}", folder / f"block-{number:06d}-{rank:02d}"
        try:
            while len(os.listdir(folder)) > WAITING and os.getppid() == parent:
                time.sleep(0.05)
            torch.save(block, part)
            part.rename(path)
        except (OSError, RuntimeError):
            return
        if os.getppid() != parent:
            return


class Drawers:
    """Starts `count` processes, each making what blocks(rank) yields; to be called before anything uses a GPU or threads."""

    def __init__(self, count, blocks):
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="imagine-train-", dir=memory if memory.is_dir() else None))
        self.processes = []
        for rank in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    drawn(blocks, rank, self.folder)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            self.processes.append(pid)
        self.ready = queue.Queue(8)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while self.folder.exists():
            for path in sorted(self.folder.glob("block-*")):
                try:
                    block = torch.load(path, weights_only=True)
                except FileNotFoundError:  # stopped meanwhile
                    return
                path.unlink(missing_ok=True)
                self.ready.put({k: v.pin_memory() if common.DEVICE != "cpu" else v for k, v in block.items()})
            time.sleep(0.01)

    def next(self, wait=False):
        """A block on the training device; None where none is ready."""
        while True:
            try:
                block = self.ready.get(wait, 5)
                break
            except queue.Empty:
                self.check()
                if not wait:
                    return None
        return {k: v.to(common.DEVICE, non_blocking=True) for k, v in block.items()}

    def check(self):
        for pid in self.processes:
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.processes.remove(pid)
                self.stop()
                raise SystemExit("a process that draws scenes has ended; what it said stands above")

    def stop(self):
        """Ends the processes."""
        for pid in self.processes:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        self.processes = []
        shutil.rmtree(self.folder, ignore_errors=True)


class Pool:
    """Samples of one length on the device, up to `room` of them; the newest replace the oldest then."""

    def __init__(self, room):
        self.room, self.filled, self.at, self.kept = room, 0, 0, {}

    def add(self, block):
        n = len(next(iter(block.values())))
        if not self.kept:
            self.kept = {k: v.new_empty((self.room, *v.shape[1:])) for k, v in block.items()}
        n = min(n, self.room - self.at)
        for k, v in block.items():
            self.kept[k][self.at:self.at + n] = v[:n]
        self.at += n
        self.filled = max(self.filled, self.at)
        self.at %= self.room

    def some(self, random, n):
        rows = torch.randint(self.filled, (n,), generator=random, device=common.DEVICE)
        return {k: v[rows] for k, v in self.kept.items()}


class Latents:
    """Latents of drawn scenes with captions, by (kind, latent frames), as latents128.load() has them, growing while one trains."""

    def __init__(self, drawers, vae, state):
        self.drawers, self.vae, self.pools = drawers, vae, {}
        while len(self.pools) < 1 + len(scenes.LENGTHS):
            self.take(wait=True)
        self.mean, self.std = self.statistics(state)

    @torch.no_grad()
    def take(self, wait=False):
        """Encodes a block, if one is ready."""
        block = self.drawers.next(wait)
        if block is None:
            return False
        frames = block["x"].shape[2]
        with common.autocast():
            block["x"] = torch.cat([latents128.encoded_frames(self.vae, as_frames(x)) for x in block["x"].split(max(1, 512 // frames))]).half()
        key = "picture" if frames == 1 else "clip", block["x"].shape[2]
        if key not in self.pools:
            self.pools[key] = Pool(ROOM.get(frames, ROOM_OF_CLIPS))
        self.pools[key].add(block)
        return True

    def statistics(self, state):
        """As latents128.statistics(), of the first scenes; kept in the same file."""
        folder = state / "latents128"
        folder.mkdir(exist_ok=True)
        if not (folder / "statistics.json").exists():
            flat = torch.cat([p.kept["x"][:p.filled].float().transpose(0, 1).flatten(1) for p in self.pools.values()], 1)
            latents128.write_statistics(folder, flat.mean(1), flat.std(1))
        return latents128.statistics(state)
