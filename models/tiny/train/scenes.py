# SPDX-License-Identifier: MIT
"""Scenes: one to three objects on a ground, with sizes, places, relations and a motion.

A scene is made from a seed and a number alone, so that a resumed run sees what it would have seen. Some combinations are
kept from training (`split.py`); a stream gives either only scenes without them or only scenes with them.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

import grounds
import motions
import objects
import split
from motions import MARGIN, SIDE, Motion

LENGTHS = (9, 13, 17, 25, 33)
SIZES = {"small": (28, 36), "": (56, 74), "large": (90, 108)}  # of one object alone, in pixels
ROAMING = ("slide", "bounce", "hop", "fall", "orbit", "zoom", "pan")  # motions that need room, so that things are a little smaller
SMALLER = {"small": 0.95, "": 0.82, "large": 0.94}
SIZE_WEIGHTS, TAUGHT_SIZES = (0.16, 0.64, 0.2), (0.18, 0.44, 0.38)  # in the order of SIZES
STEPPED = {"small": (32, 32), "": (48, 64), "large": (96, 96)}  # of one object in steps: at least, at most
STEPPED_ROAMING = (48, 48)  # of a usual one that needs room
INSET = 0.88  # of its box that an object in steps fills, so that there is something between those of several
OUTSIDE = 3.2  # pixels of it that may be, when it shakes
TRIES = 5000  # drawings of a scene until one fits
OF_TWO, OF_THREE = (44, 56), (34, 40)  # of several at rest or in place
OF_TWO_ROAMING, OF_THREE_ROAMING = (38, 52), (31, 39)
STYLE_WEIGHTS = {"3D emoji": 0.70, "noto emoji": 0.11, "flat emoji": 0.09, "color emoji": 0.08, "game art": 0.02}
PLACES = {"left": (0, None), "right": (1, None), "top": (None, 0), "bottom": (None, 1), "centre": (None, None),
          "top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
RELATIONS = ("left of", "right of", "above", "below", "next to")
# What a scene shows. "any" is any cut-out of the shared folder, whatever its caption is worth: for the VAE.
MIXTURE = {"core": 0.86, "other": 0.06, "animation": 0.08}
LAYOUTS = {"one": 0.66, "same": 0.13, "pair": 0.17, "three": 0.04}
# What a transformer is taught, in steps: more of the core, of its usual looks, and of several at once.
TAUGHT_MIXTURE = {"core": 0.91, "other": 0.03, "animation": 0.06}
TAUGHT_LAYOUTS = {"one": 0.48, "same": 0.12, "pair": 0.32, "three": 0.08}
TAUGHT_STYLES = {"3D emoji": 0.80, "noto emoji": 0.07, "flat emoji": 0.06, "color emoji": 0.06, "game art": 0.01}
TOGETHER = ("still", "slide", "bounce", "hop", "shake", "rock", "fall", "appear", "disappear", "grow", "shrink", "spin")
# Kinds of motion that go with several objects in steps: a camera that moves loses them, and hops do not fit.
SEVERAL = tuple(kind for kind in TOGETHER if kind != "hop")
IN_GROUPS = {"same": SEVERAL, "pair": (*SEVERAL, "orbit"), "three": tuple(kind for kind in SEVERAL if kind != "bounce")}
HIDDEN = 0.3  # at most this share of an object may have about its ground's colour


@dataclass
class Item:
    concept: objects.Concept
    cutout: objects.Cutout
    colour: str = None  # painted in it; None as it stands
    size: float = 0.0  # pixels, of the larger side
    size_word: str = ""
    mirror: bool = False
    animated: bool = False
    start: int = 0  # first frame of an animation

    def shown_colour(self):
        """The colour that a caption may name."""
        return self.colour or (self.concept.colours[0] if self.concept.colours else None)


@dataclass
class Scene:
    frames: int
    ground: grounds.Ground
    items: list
    layout: str  # "one", "same" (several of one kind), "pair" or "three"
    place: str = ""  # of "one"; "" where it is near the centre or moves across
    relation: str = ""  # of "pair": the first is ... the second
    motion: Motion = field(default_factory=Motion)
    movers: str = "all"  # or "first"
    paths: list = field(default_factory=list)
    even: bool = False  # its motion, see motions.evened()
    wanted: str = ""  # its motion's kind, where that was drawn beforehand

    def styles(self):
        return {i.cutout.style for i in self.items}


class Stream:
    """Scenes by number. `held` is False for training, True for held-out combinations, None for both; `step` as in stepped()."""

    def __init__(self, seed, catalogue=None, store=None, frames=LENGTHS, held=False, mixture=None, step=None):
        self.step = step
        self.seed, self.frames, self.held = seed, (frames,) if isinstance(frames, int) else tuple(frames), held
        self.catalogue = catalogue or objects.Catalogue()
        self.store = store or objects.Store(self.catalogue.shared)
        self.mixture = mixture or (TAUGHT_MIXTURE if step else MIXTURE)
        self.layouts, self.styles = (TAUGHT_LAYOUTS, TAUGHT_STYLES) if step else (LAYOUTS, STYLE_WEIGHTS)

    def scene(self, number, frames=None):
        """Scene `number`, with `frames` frames or a length drawn from the stream's."""
        rng = np.random.default_rng((self.seed, number))
        frames = frames or self.frames[rng.integers(len(self.frames))]
        kinds, weights = zip(*((k, w) for k, w in self.mixture.items() if self.has(k, frames)))
        subject = kinds[rng.choice(len(kinds), p=np.array(weights) / sum(weights))]
        layout = tuple(self.layouts)[rng.choice(4, p=list(self.layouts.values()))] if subject == "core" else "one"
        wanted = motions.kind(rng, IN_GROUPS.get(layout), taught=True) if self.step and frames > 1 else ""
        for _ in range(TRIES):  # until what was drawn fits together; the shares above stay as they are
            if subject == "animation":
                scene = self.animation(rng, frames)
            else:
                scene = self.composed(rng, frames, subject, layout, wanted)
            if scene and self.step and not stepped(scene, self.step):
                continue
            if scene and (self.held is None or split.held_out(scene) == self.held) and not self.hides(scene):
                return scene
        raise RuntimeError(f"scene {number} of {frames} frames, {layout}, {subject}, {wanted or 'any motion'}: nothing fits")

    def has(self, kind, frames):
        """True where there is something of the kind; some may be left behind where all would be too much to carry."""
        if kind == "animation":
            return frames > 1 and bool(self.catalogue.animations)
        return kind != "other" or bool(self.catalogue.others)

    def hides(self, scene):
        """True where an object is hard to tell from its ground."""
        if scene.ground.kind == "plain" and any(i.shown_colour() == scene.ground.name for i in scene.items):
            return True
        return any(hidden_share(self.store, i, p, scene.ground) > HIDDEN for i, p in zip(scene.items, scene.paths))

    def ground(self, rng):
        return grounds.choose(rng, ("plain", "gradient", "drawn")[rng.choice(3, p=[0.5, 0.14, 0.36])])

    def animation(self, rng, frames):
        found = self.catalogue.animations
        concept = found[rng.integers(len(found))]
        item = Item(concept, concept.cutouts[0], size=rng.uniform(58, 92), animated=True, start=int(rng.integers(8)))
        scene = Scene(frames, self.ground(rng), [item], "one")
        scene.paths = [motions.Path(frames, *jittered(rng, 64, 64, 6), item.size)]
        return scene if fit(scene.paths) else None

    def composed(self, rng, frames, subject, layout, wanted):
        pool = {"core": self.catalogue.core, "other": self.catalogue.others, "any": self.catalogue.any}[subject]
        style = tuple(self.styles)[rng.choice(5, p=list(self.styles.values()))]
        count = {"one": 1, "same": 2 + int(rng.random() < 0.4), "pair": 2, "three": 3}[layout]
        first = pool[rng.integers(len(pool))]
        if layout == "same" and not first.plural:
            return None
        if layout == "same":
            items = [pick(rng, first, style)] * count
            items = [replace(items[0]) for _ in range(count)]
        else:
            concepts = [first] + [pool[rng.integers(len(pool))] for _ in range(count - 1)]
            if len({c.name for c in concepts}) < count:
                return None
            items = [pick(rng, c, style) for c in concepts]
        scene = Scene(frames, self.ground(rng), items, layout, even=bool(self.step), wanted=wanted)
        return {"one": one, "same": several, "pair": pair, "three": several}[layout](rng, scene)


def pick(rng, concept, style):
    """A cut-out of a concept: of the style, or of any where there is none; painted where colours are to be had."""
    found = [c for c in concept.cutouts if c.style == style] or concept.cutouts
    colour = concept.colours[rng.integers(len(concept.colours))] if concept.painted() else None
    return Item(concept, found[rng.integers(len(found))], colour)


def jittered(rng, x, y, spread):
    return x + rng.uniform(-spread, spread), y + rng.uniform(-spread, spread)


def faced(item, motion):
    """Lets it look the way it moves; what stands looks as it was drawn."""
    going = motion.direction.split()[-1] if motion.kind in ("slide", "hop") else ""
    item.mirror = (item.cutout.looks, going) in (("L", "right"), ("R", "left"))


def rest_height(rng, scene, item, usual):
    """Where its middle is: on drawn grounds things stand below the horizon and fliers are above it."""
    horizon = grounds.HORIZON.get(scene.ground.name) if scene.ground.kind == "drawn" else None
    if horizon is None:
        return usual
    if item.concept.home in ("air", "sky"):
        return min(usual, SIDE * horizon - item.size / 2 + rng.uniform(-6, 12))
    return min(SIDE * horizon + rng.uniform(14, 34), SIDE - MARGIN) - item.size / 2


def placed(rng, place):
    """A centre for a place by name."""
    across, down = PLACES[place]
    def middle(third):
        return rng.uniform(58, 70) if third is None else rng.uniform(24, 36) if third == 0 else rng.uniform(92, 104)
    return middle(across), middle(down)


def one(rng, scene):
    item = scene.items[0]
    item.size_word = tuple(SIZES)[rng.choice(3, p=TAUGHT_SIZES if scene.even else SIZE_WEIGHTS)]
    item.size = rng.uniform(*SIZES[item.size_word])
    scene.motion = single_motion(rng, scene, item)
    if not scene.motion:
        return None
    kind = scene.motion.kind
    if kind in ROAMING:
        item.size *= SMALLER[item.size_word]
    if kind in ("still", *motions.IN_PLACE) and item.size_word != "large" and rng.random() < 0.65:
        scene.place = tuple(PLACES)[rng.integers(len(PLACES))]
    x, y = placed(rng, scene.place or "centre")
    if not scene.place:
        x, y = jittered(rng, 64, 64, 8)
        y = rest_height(rng, scene, item, y) if kind not in ("zoom", "orbit") else y
        y = SIDE - MARGIN - item.size / 2 - rng.uniform(0, 14) if kind == "fall" else y
    faced(item, scene.motion)
    path = motions.Path(scene.frames, x, y, item.size)
    if kind == "orbit":
        motions.orbit(path, scene.motion, 64, 64, rng.uniform(24, 32) if item.size < 62 else 14)
    else:
        motions.move(path, scene.motion, motions.seconds(scene.frames))
    scene.paths = [path]
    return scene if fits_camera(scene) and fit(scene.paths) and (not scene.place or keeps_place(scene)) else None


def single_motion(rng, scene, item):
    """A motion of one object; the camera only moves over grounds that show it. None where the wanted kind does not go."""
    for _ in range(20):
        motion = motions.choose(rng, scene.frames, wanted(scene), scene.even)
        turns = motion.kind == "spin" and item.concept.name in motions.ROUND
        blind = motion.kind in motions.CAMERA and scene.ground.kind != "drawn"
        size = item.size * SMALLER[item.size_word]
        motion = motions.brisk(motion, size) if scene.even else motion
        tall = motion.kind in ("slide", "hop", "fall", "bounce") and size + motion.amount > SIDE - 2 * MARGIN
        if not (turns or blind or tall or (motion.kind == "orbit" and item.size_word == "large")):
            return motion
    return None if scene.wanted else Motion()


def wanted(scene, kinds=None):
    """The kinds that a scene's motion may have, of these."""
    return (scene.wanted,) if scene.wanted else kinds


def fit(paths):
    """Shifts all of them together until they are in the picture; False where there is no room."""
    boxes = np.array([p.box() for p in paths])
    x0, y0, x1, y1 = boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max()
    if x1 - x0 > SIDE - MARGIN or y1 - y0 > SIDE - MARGIN:
        return False
    edge = MARGIN / 2
    dx = max(edge - x0, 0) - max(x1 - (SIDE - edge), 0)
    dy = max(edge - y0, 0) - max(y1 - (SIDE - edge), 0)
    for p in paths:
        p.shift(dx, dy)
    return True


def fits_camera(scene):
    """True where a moving camera keeps every object in the picture."""
    zoom, shift = motions.camera(scene.motion, scene.frames)
    if scene.motion.kind not in motions.CAMERA:
        return True
    for path in scene.paths:
        x0, y0, x1, y1 = path.box()
        corners = np.array([(x - 64) * zoom + 64 - shift for x in (x0, x1)] + [(y - 64) * zoom + 64 for y in (y0, y1)])
        if corners.min() < 1 or corners.max() > SIDE - 1:
            return False
    return True


def stepped(scene, step):
    """Rounds sizes, and corners at rest, to multiples of `step` pixels, and lets every object fill INSET of its box; False where things
    do not fit any more. A token stands for as much: a cut-out that may lie anywhere in tokens at any size looks new each time, so that its
    shape is learnt late, and what one object has taught is of no use for two."""
    kind = scene.motion.kind
    if kind == "orbit":
        return True
    rest = -1 if kind in ("grow", "fall") else 0
    for item, path in zip(scene.items, scene.paths):
        size = stepped_size(scene, item, step)
        path.scale(size / item.size)
        item.size = size
        grid = step / 2 if scene.place and size == step else step  # so that there is a middle
        corner = path.x[rest] - path.width[rest] / 2, path.y[rest] - path.height[rest] / 2
        path.shift(*(grid * round(c / grid) - c for c in corner))
    for item, path in zip(scene.items, scene.paths):
        path.scale(INSET)
        item.size *= INSET
    boxes = np.array([p.box(turned=False) for p in scene.paths])  # corners of what spins are mostly empty
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0) - SIDE
    out = np.ceil(np.maximum(-low - OUTSIDE, 0) / step) - np.ceil(np.maximum(high - OUTSIDE, 0) / step)
    for path in scene.paths:
        path.shift(*(step * out))
    boxes = np.array([p.box(turned=False) for p in scene.paths])
    inside = boxes.min() >= -OUTSIDE and boxes.max() <= SIDE + OUTSIDE
    return inside and apart(scene) and fits_camera(scene) and (not scene.place or keeps_place(scene))


def stepped_size(scene, item, step):
    """The nearest multiple; of one object as its word has it, of several of a kind all have that of the largest."""
    size = max(i.size for i in scene.items) if scene.layout == "same" else item.size
    size = step * max(1, round(size / step))
    if scene.layout != "one" or item.animated:
        return size
    low, high = STEPPED_ROAMING if scene.motion.kind in ROAMING and not item.size_word else STEPPED[item.size_word]
    low = step * math.ceil(low / step)
    return min(max(size, low), max(low, high // step * step))


def keeps_place(scene):
    """True where it has stayed in its place although it had to fit."""
    path = scene.paths[0]
    for third, middle in zip(PLACES[scene.place], (path.x.mean(), path.y.mean())):
        if (third is None and abs(middle - 64) > 12) or (third == 0 and middle > 46) or (third == 1 and middle < 82):
            return False
    return True


def row(rng, scene, sizes, gap):
    """Centres side by side, from left to right."""
    width = sum(sizes) + gap * (len(sizes) - 1)
    x = 64 - width / 2 + rng.uniform(-1, 1) * max(0, (SIDE - 2 * MARGIN - width) / 2)
    y = 64 + rng.uniform(-14, 14)
    centres = []
    for item, size in zip(scene.items, sizes):
        centres.append([x + size / 2, y])
        x += size + gap
    horizon = scene.ground.kind == "drawn" and scene.ground.name in grounds.HORIZON
    if horizon and scene.relation not in ("above", "below"):
        feet = min(SIDE * grounds.HORIZON[scene.ground.name] + rng.uniform(14, 34), SIDE - MARGIN)
        for c, size in zip(centres, sizes):
            c[1] = feet - size / 2
    return centres


def several(rng, scene):
    scene.motion = group_motion(rng, scene)
    if not scene.motion:
        return None
    count = len(scene.items)
    size = rng.uniform(*size_of_several(scene))
    sizes = [size * rng.uniform(0.94, 1.06) for _ in range(count)]
    return arranged(rng, scene, sizes, row(rng, scene, sizes, rng.uniform(2, 8)))


def size_of_several(scene):
    roams = scene.motion.kind in ROAMING
    if len(scene.items) == 2:
        return OF_TWO_ROAMING if roams else OF_TWO
    return OF_THREE_ROAMING if roams else OF_THREE


def group_motion(rng, scene):
    """A motion of all objects together, or of the first alone. None where the wanted kind does not go."""
    if scene.frames == 1:
        return Motion()
    if scene.layout == "pair" and scene.wanted in ("", *motions.IN_PLACE) and rng.random() < 0.4:
        scene.movers = "first"
        motion = motions.choose(rng, scene.frames, wanted(scene, ("bounce", "spin", "rock", "shake", "grow", "shrink")), scene.even)
        blind = motion.kind == "spin" and scene.items[0].concept.name in motions.ROUND
        return (None if scene.wanted else Motion()) if blind else motion
    kinds = list(TOGETHER)
    kinds += list(motions.CAMERA) if scene.ground.kind == "drawn" else []
    if any(i.concept.name in motions.ROUND for i in scene.items):
        kinds.remove("spin")
    if scene.wanted and scene.wanted not in kinds:
        return None
    return motions.choose(rng, scene.frames, wanted(scene, tuple(kinds)), scene.even)


def arranged(rng, scene, sizes, centres):
    """Gives every object its path; None where they do not fit."""
    length = motions.seconds(scene.frames)
    scene.paths = []
    for k, (item, size, (x, y)) in enumerate(zip(scene.items, sizes, centres)):
        item.size = size
        path = motions.Path(scene.frames, x, y, size)
        if scene.movers == "all" or k == 0:
            faced(item, scene.motion)
            motions.move(path, scene.motion, length)
        scene.paths.append(path)
    return scene if fits_camera(scene) and fit(scene.paths) and apart(scene) else None


def apart(scene):
    """True where no two objects cover each other by more than a little, in any frame."""
    for k, a in enumerate(scene.paths):
        for b in scene.paths[:k]:
            over_x = (a.width + b.width) / 2 - np.abs(a.x - b.x)
            over_y = (a.height + b.height) / 2 - np.abs(a.y - b.y)
            if (np.minimum(over_x, over_y) > 3).any():
                return False
    return True


def pair(rng, scene):
    scene.relation = RELATIONS[rng.integers(len(RELATIONS))] if rng.random() < 0.8 else ""
    if scene.wanted == "orbit" if scene.wanted else scene.frames > 1 and scene.relation in ("", "next to") and rng.random() < 0.25:
        return circling(rng, scene)
    scene.motion = group_motion(rng, scene)
    if not scene.motion:
        return None
    sizes = [rng.uniform(*size_of_several(scene)) for _ in range(2)]
    if rng.random() < 0.2:
        small = int(rng.integers(2))
        sizes[small], sizes[1 - small] = rng.uniform(26, 31), rng.uniform(56, 64)
        scene.items[small].size_word, scene.items[1 - small].size_word = "small", "large"
    gap = rng.uniform(3, 10)
    if scene.relation in ("above", "below"):
        upper = [0, 1] if scene.relation == "above" else [1, 0]
        top = 64 - (sum(sizes) + gap) / 2 + rng.uniform(-6, 6)
        x = 64 + rng.uniform(-24, 24)
        centres = [None, None]
        for i in upper:
            centres[i] = (x + rng.uniform(-4, 4), top + sizes[i] / 2)
            top += sizes[i] + gap
        return arranged(rng, scene, sizes, centres)
    swap = scene.relation == "right of" or (scene.relation in ("", "next to") and rng.random() < 0.5)
    if swap:
        scene.items.reverse()
        centres = row(rng, scene, sizes[::-1], gap)[::-1]
        scene.items.reverse()
    else:
        centres = row(rng, scene, sizes, gap)
    return arranged(rng, scene, sizes, centres)


def circling(rng, scene):
    """The first goes round the second."""
    direction = ("clockwise", "counterclockwise")[rng.integers(2)]
    speed = ("slow", "", "fast")[rng.integers(3)]
    length = motions.seconds(scene.frames)
    scene.motion = motions.fitted(rng, "orbit", direction, speed, length)
    scene.motion = motions.evened(scene.motion, length) if scene.even else scene.motion
    scene.movers, scene.relation = "first", "around"
    around, small = rng.uniform(36, 43), rng.uniform(25, 29)
    scene.items[0].size_word = scene.items[1].size_word = ""
    scene.items[0].size, scene.items[1].size = small, around
    radius = (around + small) / 2 + rng.uniform(5, 9)
    circle = motions.orbit(motions.Path(scene.frames, 64, 64, small), scene.motion, 64, 64, radius)
    scene.paths = [circle, motions.Path(scene.frames, 64, 64, around)]
    return scene if fit(scene.paths) else None


def hidden_share(store, item, path, ground):
    """The share of an object whose colour is about that of the ground behind it, in the middle of its path."""
    if item.animated:
        cut = store.animated(item.cutout.file)[0].float()[:, 3::6, 3::6].numpy() / 255
    else:
        cut = store.picture(item.cutout.file, item.colour)[-1].numpy() / np.float32(255)
    side = cut.shape[1]
    if ground.kind == "plain":
        behind = np.float32(grounds.PLAIN[ground.name]) / 255
    else:
        rgb = grounds.paint(ground, scale=0.125)
        k = len(path.x) // 2
        steps = (np.arange(side) + 0.5) / side - 0.5
        x = np.clip((path.x[k] + steps * path.width[k]) / 8, 0, 15).astype(int)
        y = np.clip((path.y[k] + steps * path.height[k]) / 8, 0, 15).astype(int)
        behind = rgb[y][:, x].transpose(2, 0, 1)
    behind = behind.reshape(3, -1, side) if behind.ndim == 3 else behind[:, None, None]
    near = np.abs(cut[:3] - behind * cut[3]).max(0) < 0.17 * cut[3]
    return float((near * cut[3]).sum() / max(cut[3].sum(), 1e-6))
