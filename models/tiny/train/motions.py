# SPDX-License-Identifier: MIT
"""How things move: a motion has a kind, a direction and a speed, and gives an object's placement in every frame.

Speeds are gentle enough for latents that stand for four frames: at most 5 pixels from one frame to the next.
"""

from dataclasses import dataclass, replace

import numpy as np

FPS = 12
SIDE = 128
MARGIN = 4  # pixels that stay free around an object
FARTHEST = 74  # pixels that an object goes

# Kind: weight, directions, speeds.
KINDS = {
    "still": (0.13, ("",), ("",)),
    "slide": (0.22, ("left", "right", "up", "down", "up left", "up right", "down left", "down right"), ("slow", "", "fast")),
    "bounce": (0.09, ("",), ("slow", "", "fast")),
    "hop": (0.07, ("left", "right"), ("",)),
    "spin": (0.09, ("clockwise", "counterclockwise"), ("slow", "", "fast")),
    "rock": (0.04, ("",), ("",)),
    "grow": (0.07, ("",), ("",)),
    "shrink": (0.05, ("",), ("",)),
    "shake": (0.05, ("",), ("", "fast")),
    "fall": (0.05, ("",), ("",)),
    "orbit": (0.05, ("clockwise", "counterclockwise"), ("slow", "", "fast")),
    "appear": (0.03, ("",), ("",)),
    "disappear": (0.02, ("",), ("",)),
    "zoom": (0.08, ("in", "out"), ("",)),
    "pan": (0.09, ("left", "right"), ("slow", "", "fast")),
}
# Weights where a transformer is taught: what goes somewhere is named in few of the clips above, and soon forgotten.
TAUGHT = {"still": 0.06, "slide": 0.26, "bounce": 0.10, "hop": 0.08, "spin": 0.11, "rock": 0.07, "grow": 0.05, "shrink": 0.05, "shake": 0.09,
          "fall": 0.04, "orbit": 0.05, "appear": 0.01, "disappear": 0.01, "zoom": 0.01, "pan": 0.01}
CAMERA = ("zoom", "pan")
IN_PLACE = ("spin", "rock", "bounce", "shake", "grow", "shrink")  # what one of several objects can do alone
PACE = {"slow": 0.55, "": 1.0, "fast": 1.7}
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "up left": (-0.8, -0.8), "up right": (0.8, -0.8),
        "down left": (-0.8, 0.8), "down right": (0.8, 0.8)}
# Of even motions: what they cover in a second (pixels, degrees) and repeats in a second by speed; sizes of what has none.
EVEN = {"slide": (24, 24, 48), "pan": (24, 24, 48), "hop": (24,) * 3, "spin": (45, 90, 180), "orbit": (90, 120, 180)}
EVEN_RATE = {"bounce": (0.5, 1, 1.5), "rock": (0.75,) * 3, "shake": (1.5, 1.5, 3)}
EVEN_SIZE = {"bounce": 24, "rock": 18, "shake": 5, "grow": 2, "shrink": 2, "fall": 48, "zoom": 1.5}
# Nobody sees these turn.
ROUND = {"ball", "orange", "coin", "cookie", "sun", "doughnut", "snowflake", "star", "cherry blossom", "four-leaf clover",
         "egg", "fire"}


@dataclass(frozen=True)
class Motion:
    kind: str = "still"
    direction: str = ""
    speed: str = ""  # "slow", "" or "fast"
    amount: float = 0.0  # distance in pixels, angle in degrees, or ratio of sizes, over the clip
    rate: float = 0.0  # repeats a second
    phase: float = 0.0  # degrees at which an orbit begins


def seconds(frames):
    return (frames - 1) / FPS


def kind(rng, kinds=None, taught=False):
    """One of these kinds, or of all; `taught`: in the shares of TAUGHT."""
    kinds = kinds or tuple(KINDS)
    weights = np.array([TAUGHT[k] if taught else KINDS[k][0] for k in kinds])
    return kinds[rng.choice(len(kinds), p=weights / weights.sum())]


def choose(rng, frames, kinds=None, even=False):
    """A motion that fits a clip of `frames` frames, before it is known what moves; `even` as in evened()."""
    if frames == 1:
        return Motion()
    chosen = kind(rng, kinds)
    _, directions, speeds = KINDS[chosen]
    direction = directions[rng.integers(4 if chosen == "slide" and rng.random() < 0.8 else len(directions))]
    speed = speeds[rng.integers(len(speeds))] if rng.random() < 0.7 else ""
    motion = fitted(rng, chosen, direction, speed, seconds(frames))
    return evened(motion, seconds(frames)) if even else motion


def fitted(rng, kind, direction, speed, length):
    """Amounts for a clip of `length` seconds; where a speed does not fit its length, the usual one."""
    pace, amount, rate = PACE[speed] * rng.uniform(0.9, 1.1), 0.0, 0.0
    if kind in ("slide", "pan", "hop"):
        amount = {"slide": 27, "pan": 24, "hop": 26}[kind] * pace * length
        if amount > FARTHEST or (speed == "slow" and amount < 9):
            speed, amount = "", min(max(26 * length, 12), FARTHEST)
    elif kind == "bounce":
        rate = 1.05 * pace
        if speed == "slow" and rate * length < 1:
            speed, rate = "", 1.05
        rate, amount = max(rate, 1 / length), rng.uniform(20, 32)
    elif kind in ("spin", "orbit"):
        amount = {"spin": 105, "orbit": 120}[kind] * pace * length
    elif kind == "rock":
        rate, amount = max(0.9, 1 / length), rng.uniform(15, 22)
    elif kind == "shake":
        rate, amount = 1.9 * (1.5 if speed else 1), rng.uniform(4, 6)
    elif kind in ("grow", "shrink"):
        amount = rng.uniform(1.8, 2.5)
    elif kind == "fall":
        amount = rng.uniform(48, 66)
    elif kind == "zoom":
        amount = rng.uniform(1.4, 1.6)
    return Motion(kind, direction, speed, float(amount), float(rate), float(rng.uniform(0, 360)))


def evened(motion, length):
    """The same with one amount and rate for each speed, so that things have moved by multiples of 8 pixels, or turned by multiples of
    15 degrees, from one latent frame to the next, and repeats begin with one."""
    kind, which = motion.kind, tuple(PACE).index(motion.speed)
    amount, rate = EVEN_SIZE.get(kind, motion.amount), motion.rate
    if kind in EVEN:
        amount = EVEN[kind][which] * length
    if kind in EVEN_RATE:
        rate = max(EVEN_RATE[kind][which], 1 / length)
    return replace(motion, amount=float(amount), rate=float(rate), phase=90 * round(motion.phase / 90))


def brisk(motion, size):
    """An even motion along a line twice as far, where no speed is named and an object of that size has room: a latent pixel from one
    latent frame to the next. What moves by less is hard to tell from what stands, to a transformer and to people."""
    far = 2 * motion.amount
    fits = far <= FARTHEST and size + far <= SIDE - 2 * MARGIN
    return replace(motion, amount=far) if motion.kind in ("slide", "hop") and not motion.speed and fits else motion


class Path:
    """Placement over the frames: centre x and y, width and height in pixels, angle (degrees, clockwise), opacity."""

    def __init__(self, frames, x, y, size):
        self.x, self.y = np.full(frames, float(x)), np.full(frames, float(y))
        self.width, self.height = np.full(frames, float(size)), np.full(frames, float(size))
        self.angle, self.opacity = np.zeros(frames), np.ones(frames)

    def scale(self, k):
        self.width *= k
        self.height *= k

    def box(self, turned=True):
        """The smallest and largest x and y that it ever covers, or that it would if it did not turn."""
        wider = np.abs(np.cos(np.radians(self.angle))) + np.abs(np.sin(np.radians(self.angle))) if turned else np.ones(len(self.x))
        w, h = self.width * np.minimum(wider, 1.25) / 2, self.height * np.minimum(wider, 1.25) / 2
        return (self.x - w).min(), (self.y - h).min(), (self.x + w).max(), (self.y + h).max()

    def shift(self, dx, dy):
        self.x += dx
        self.y += dy


def move(path, motion, length):
    """Lets an object at rest at its path's place do a motion; the rest stays the middle or the end of it."""
    frames = len(path.x)
    t = np.arange(frames) / FPS
    k = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)
    kind = motion.kind
    if kind in ("slide", "hop"):
        dx, dy = WAYS[motion.direction]
        path.shift((k - 0.5) * dx * motion.amount, (k - 0.5) * dy * motion.amount)
        if kind == "hop":
            hops = max(1, round(length * 1.6))
            path.y -= 13 * np.abs(np.sin(np.pi * hops * k))
    elif kind == "bounce":
        jump = np.abs(np.sin(np.pi * motion.rate * t))
        squash = 0.14 * np.clip(1 - jump / 0.25, 0, 1) * (t > 0)
        path.y += path.height * squash / 2 - motion.amount * jump
        path.width *= 1 + squash * 0.7
        path.height *= 1 - squash
    elif kind == "spin":
        path.angle += k * motion.amount * (1 if motion.direction == "clockwise" else -1)
    elif kind == "rock":
        path.angle += motion.amount * np.sin(2 * np.pi * motion.rate * t)
    elif kind == "shake":
        path.x += motion.amount * np.sin(2 * np.pi * motion.rate * t)
    elif kind in ("grow", "shrink"):
        path.scale(motion.amount ** (k - 1 if kind == "grow" else -k))
    elif kind == "fall":
        end = min(length, 1.1)
        path.y -= motion.amount * (1 - np.clip(t / end, 0, 1) ** 2)
    elif kind in ("appear", "disappear"):
        shown = np.clip(k * 1.25 - 0.05, 0, 1)
        path.opacity *= shown if kind == "appear" else shown[::-1]
    return path


def orbit(path, motion, x, y, radius):
    """A circle around (x, y)."""
    k = np.linspace(0, 1, len(path.x))
    turn = np.radians(motion.phase + k * motion.amount * (1 if motion.direction == "clockwise" else -1))
    path.x, path.y = x + radius * np.cos(turn), y + radius * np.sin(turn)
    return path


def camera(motion, frames):
    """What the camera does: (zoom [t], shift to the right [t])."""
    k = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)
    zoom, shift = np.ones(frames), np.zeros(frames)
    if motion.kind == "zoom":
        zoom = motion.amount ** (k if motion.direction == "in" else 1 - k)
    elif motion.kind == "pan":
        shift = (k - 0.5) * motion.amount * (1 if motion.direction == "right" else -1)
    return zoom, shift
