# SPDX-License-Identifier: MIT
"""The training data: captioned scenes of one named object, drawn from public emoji cut-outs.

A scene is a plain background, one cut-out, and one motion over nine frames. Nothing is stored:
scenes are drawn in batches from a seeded generator, so that a resumed run sees what it would have seen.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

SIZE = 64
FRAMES = 9
CUTOUT = 64

# Colours an object may be painted in: hue in degrees, factors on saturation and on value.
PAINT = {
    "red": (357, 1.0, 0.95),
    "orange": (27, 1.0, 1.0),
    "yellow": (49, 1.0, 1.08),
    "green": (118, 0.9, 0.85),
    "blue": (213, 1.0, 0.98),
    "purple": (276, 0.85, 0.85),
    "pink": (332, 0.55, 1.08),
}

BACKGROUNDS = {
    "grey": (228, 230, 234),  # the default, when the caption names none
    "blue": (96, 160, 240),
    "green": (126, 200, 120),
    "yellow": (250, 218, 100),
    "pink": (248, 170, 198),
}
DEFAULT_BACKGROUND = "grey"

MOTIONS = ("still", "right", "left", "bouncing", "growing")

# name: (other names, cut-outs as "style:caption", colours)
# A cut-out ending in "<" looks to the left and is mirrored where it moves to the right.
# The first colour is the cut-out's own; with more than one, the cut-outs are repainted.
OBJECTS = {
    "apple": ((), ("3:red apple", "n:red apple"), ("red", "green", "yellow")),
    "banana": ((), ("3:banana", "n:banana"), ("yellow",)),
    "orange": (("tangerine",), ("3:tangerine", "n:tangerine"), ("orange",)),
    "strawberry": ((), ("3:strawberry", "n:strawberry"), ("red",)),
    "cherries": ((), ("3:cherries", "n:cherries"), ("red",)),
    "bunch of grapes": (("grapes",), ("3:grapes", "n:grapes"), ("purple",)),
    "pear": ((), ("3:pear", "n:pear"), ("green",)),
    "pineapple": ((), ("3:pineapple", "n:pineapple"), ("yellow",)),
    "mushroom": (("toadstool",), ("3:mushroom", "n:mushroom"), ("red",)),
    "slice of pizza": (("pizza",), ("3:pizza", "n:pizza"), ()),
    "hamburger": (("burger",), ("3:hamburger", "n:hamburger"), ()),
    "doughnut": (("donut",), ("3:doughnut", "n:doughnut"), ()),
    "dog": (("puppy",), ("3:dog face", "n:dog"), ()),
    "cat": (("kitten", "kitty"), ("3:cat face", "n:cat face"), ()),
    "cow": ((), ("3:cow<", "n:cow<"), ()),
    "pig": (("piggy",), ("3:pig<", "n:pig<"), ("pink",)),
    "rabbit": (("bunny",), ("3:rabbit face", "n:rabbit face"), ()),
    "fox": ((), ("3:fox", "n:fox"), ("orange",)),
    "panda": ((), ("3:panda", "n:panda"), ()),
    "frog": ((), ("3:frog", "n:frog"), ("green",)),
    "elephant": ((), ("3:elephant<", "n:elephant<"), ()),
    "horse": (("pony",), ("3:horse<", "n:horse<"), ()),
    "duck": ((), ("3:duck<", "n:duck<"), ()),
    "bird": ((), ("3:bird<", "n:bird<"), ("blue", "red", "yellow", "green")),
    "owl": ((), ("3:owl", "n:owl"), ()),
    "penguin": ((), ("3:penguin", "n:penguin<"), ()),
    "fish": ((), ("3:fish<", "n:fish<"), ("blue", "orange", "red", "green")),
    "whale": ((), ("3:whale<",), ("blue",)),
    "octopus": ((), ("3:octopus", "n:octopus"), ()),
    "turtle": (("tortoise",), ("3:turtle<", "n:turtle<"), ("green",)),
    "butterfly": ((), ("3:butterfly", "n:butterfly"), ()),
    "bee": (("honeybee",), ("n:honeybee<",), ()),
    "car": (("automobile",), ("3:automobile<", "n:automobile<"), ("red", "yellow", "blue", "green")),
    "truck": (("lorry",), ("3:delivery truck<", "n:delivery truck<"), ()),
    "train": (("locomotive",), ("3:locomotive<", "n:locomotive<"), ()),
    "airplane": (("plane",), ("3:airplane", "n:airplane"), ()),
    "helicopter": ((), ("3:helicopter<", "n:helicopter<"), ()),
    "rocket": (("spaceship",), ("3:rocket", "n:rocket"), ()),
    "boat": (("sailboat", "ship"), ("3:sailboat", "n:sailboat"), ()),
    "house": (("home",), ("3:house", "n:house"), ()),
    "tree": ((), ("3:deciduous tree", "n:deciduous tree"), ("green",)),
    "flower": (("tulip",), ("3:tulip", "n:tulip"), ("pink", "red", "yellow", "purple")),
    "sunflower": ((), ("3:sunflower", "n:sunflower"), ()),
    "cactus": ((), ("3:cactus", "n:cactus"), ("green",)),
    "sun": ((), ("3:sun", "n:sun"), ("yellow",)),
    "moon": (("crescent moon",), ("3:crescent moon", "n:crescent moon"), ("yellow",)),
    "star": ((), ("3:star", "n:star"), ("yellow", "red", "blue")),
    "cloud": ((), ("3:cloud", "n:cloud"), ()),
    "rainbow": ((), ("3:rainbow", "n:rainbow"), ()),
    "snowman": ((), ("3:snowman", "n:snowman"), ()),
    "ball": ((), ("drawn:ball",), ("red", "blue", "yellow", "green")),
    "basketball": ((), ("3:basketball", "n:basketball"), ("orange",)),
    "soccer ball": (("football",), ("n:soccer ball",), ()),
    "balloon": ((), ("3:balloon", "n:balloon"), ("red", "blue", "yellow", "green", "purple")),
    "heart": ((), ("3:red heart", "n:red heart"), ("red", "blue", "green", "yellow", "pink")),
    "crown": ((), ("3:crown", "n:crown"), ()),
    "key": ((), ("3:key", "n:key"), ()),
    "bell": ((), ("3:bell", "n:bell"), ("yellow",)),
    "book": ((), ("3:closed book", "n:closed book"), ("red", "blue", "green")),
    "umbrella": ((), ("n:umbrella",), ("purple", "red", "yellow", "green")),
    "guitar": ((), ("3:guitar", "n:guitar"), ("red",)),
    "clock": (("alarm clock",), ("3:alarm clock", "n:alarm clock"), ()),
    "robot": ((), ("n:robot",), ()),
    "ghost": ((), ("3:ghost", "n:ghost"), ()),
    "teddy bear": (("teddy",), ("3:teddy bear", "n:teddy bear"), ()),
    "light bulb": (("bulb", "lamp"), ("3:light bulb", "n:light bulb"), ()),
}

STYLES = {"3": "3D emoji", "n": "noto emoji"}


def shared_folder():
    """The shared data folder: $IMAGINE_SHARED, or ../shared beside the project."""
    root = Path(__file__).resolve().parents[3]
    return Path(os.environ.get("IMAGINE_SHARED", root.parent / "shared")) / "data"


def manifest(shared):
    lines = (shared / "pictures" / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def there(shared, record):
    return (shared / "pictures" / record["file"]).exists()


def premultiplied(rgba):
    """A float32 array [4, CUTOUT, CUTOUT], colour multiplied by alpha, reduced without a dark rim."""
    a = np.asarray(rgba, np.float32) / 255
    a[..., :3] *= a[..., 3:]
    t = torch.from_numpy(a).permute(2, 0, 1)[None]
    return F.interpolate(t, (CUTOUT, CUTOUT), mode="area")[0].numpy()


def read_cutout(shared, record):
    return Image.open(shared / "pictures" / record["file"]).convert("RGBA")


def drawn_ball():
    """A shaded red sphere, since the emoji sets have no plain ball."""
    y, x = (np.mgrid[0:128, 0:128] + 0.5 - 64) / 60
    r2 = x * x + y * y
    z = np.sqrt(np.clip(1 - r2, 0, 1))
    light = np.clip(-0.45 * x - 0.6 * y + 0.66 * z, 0, 1)
    gloss = np.clip((light - 0.93) / 0.07, 0, 1)[..., None]
    base = np.array([0.93, 0.1, 0.1]) * (0.5 + 0.5 * light)[..., None]
    rgb = base * (1 - 0.8 * gloss) + 0.8 * gloss
    alpha = np.clip((1 - np.sqrt(r2)) * 60 + 0.5, 0, 1)[..., None]
    return Image.fromarray((np.concatenate([rgb, alpha], 2) * 255).astype(np.uint8), "RGBA")


def repaint(rgba, colour):
    """The cut-out with its dominant hue turned to `colour`; greys and other hues stay."""
    hue, saturation, value = PAINT[colour]
    h, s, v = (np.asarray(c, np.float32) for c in rgba.convert("RGB").convert("HSV").split())
    weight = s * v * (np.asarray(rgba.getchannel("A")) > 128)
    histogram = np.bincount(h.astype(int).ravel(), weight.ravel(), 256)
    smooth = sum(np.roll(histogram, k) for k in range(-12, 13))
    peak = int(smooth.argmax())
    offset = (h - peak + 128) % 256 - 128
    near = (np.abs(offset) < 30) & (s > 50)
    h = np.where(near, hue * 256 / 360 + offset * 0.3, h) % 256
    s = np.where(near, np.clip(s * saturation, 0, 255), s)
    v = np.where(near, np.clip(v * value, 0, 255), v)
    hsv = Image.merge("HSV", [Image.fromarray(c.astype(np.uint8)) for c in (h, s, v)])
    painted = hsv.convert("RGB").convert("RGBA")
    painted.putalpha(rgba.getchannel("A"))
    return painted


class Objects:
    """Every (object, colour) pair with its cut-outs: `pictures` [n, 4, 64, 64], and `entries`."""

    def __init__(self, shared=None):
        shared = shared or shared_folder()
        files = {(r["style"], r["caption"]): r for r in manifest(shared)}
        self.entries, pictures = [], []
        for name, (_, cutouts, colours) in OBJECTS.items():
            for colour in colours or (None,):
                members = []
                for cutout in cutouts:
                    style, caption = cutout.rstrip("<").split(":")
                    if style == "drawn":
                        image = drawn_ball()
                    else:
                        image = read_cutout(shared, files[STYLES[style], caption])
                    if len(colours) > 1:
                        image = repaint(image, colour)
                    members.append((len(pictures), cutout.endswith("<")))
                    pictures.append(premultiplied(image))
                self.entries.append((name, colour, members))
        self.pictures = torch.from_numpy(np.stack(pictures))
        self.of_name = {}
        for i, (name, _, _) in enumerate(self.entries):
            self.of_name.setdefault(name, []).append(i)


def other_cutouts(shared, held_out):
    """All 3D and Noto cut-outs for the VAE; every 20th caption is kept for measuring (`held_out`)."""
    rows = [r for r in manifest(shared) if r["style"] in STYLES.values()]
    held = set(sorted({r["caption"] for r in rows})[::20])
    named = {c.rstrip("<").split(":")[1] for _, cutouts, _ in OBJECTS.values() for c in cutouts}
    held -= named
    rows = [r for r in rows if (r["caption"] in held) == held_out]
    return torch.from_numpy(np.stack([premultiplied(read_cutout(shared, r)) for r in rows]))


def render(pictures, placement, background):
    """Draws cut-outs on plain grounds.

    pictures [b, 4, 64, 64]; placement [b, t, 4] as centre x, centre y, width, height in pixels (a
    negative width mirrors); background [b, 3] in 0..1. Returns [b, 3, t, 64, 64] in -1..1.
    """
    b, t, _ = placement.shape
    p = placement.reshape(b * t, 4)
    half = SIZE / 2
    theta = torch.zeros(b * t, 2, 3)
    theta[:, 0, 0] = SIZE / p[:, 2]
    theta[:, 1, 1] = SIZE / p[:, 3]
    theta[:, 0, 2] = (half - p[:, 0]) / half * SIZE / p[:, 2]
    theta[:, 1, 2] = (half - p[:, 1]) / half * SIZE / p[:, 3]
    grid = F.affine_grid(theta, (b * t, 4, SIZE, SIZE), align_corners=False)
    source = pictures[:, None].expand(-1, t, -1, -1, -1).reshape(b * t, 4, CUTOUT, CUTOUT)
    small = (p[:, 2].abs() < 36)[:, None, None, None]
    source = torch.where(small, blurred(source), source) if small.any() else source
    cut = F.grid_sample(source, grid, align_corners=False).reshape(b, t, 4, SIZE, SIZE)
    frames = cut[:, :, :3] + (1 - cut[:, :, 3:]) * background[:, None, :, None, None]
    return frames.permute(0, 2, 1, 3, 4) * 2 - 1


def blurred(pictures):
    """A light blur, so that strong reductions do not alias."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel).expand(4, 1, 3, 3)
    return F.conv2d(pictures, kernel, padding=1, groups=4)


def motion_path(rng, motion, mirror):
    """Placement [FRAMES, 4] of one object under a motion, with modest variation."""
    t = np.arange(FRAMES) / (FRAMES - 1)
    size = rng.uniform(40, 50)
    x = np.full(FRAMES, 32 + rng.uniform(-4, 4))
    y = np.full(FRAMES, 32 + rng.uniform(-4, 4))
    width, height = np.full(FRAMES, size), np.full(FRAMES, size)
    if motion in ("right", "left"):
        size = rng.uniform(34, 42)
        width[:] = height[:] = size
        x = 32 + (t - 0.5) * rng.uniform(24, 30) + rng.uniform(-2, 2)
        x = x if motion == "right" else 64 - x
    elif motion == "bouncing":
        size = rng.uniform(34, 40)
        jump = np.sin(np.pi * t)
        ground = rng.uniform(40, 43)
        squash = 1 - 0.16 * (jump < 0.1)
        width, height = size * (2 - squash), size * squash
        y = ground - jump * rng.uniform(17, 21) + (size - height) / 2
    elif motion == "growing":
        width = height = rng.uniform(18, 22) + t * rng.uniform(28, 34)
    return np.stack([x, y, -width if mirror else width, height], 1)


class Scene:
    """What one caption speaks of."""

    def __init__(self, rng, objects, motion=None):
        names = list(OBJECTS)
        self.name = names[rng.integers(len(names))]
        self.entry = rng.choice(objects.of_name[self.name])
        _, self.colour, members = objects.entries[self.entry]
        self.picture, looks_left = members[rng.integers(len(members))]
        self.background = rng.choice(list(BACKGROUNDS), p=[0.4, 0.15, 0.15, 0.15, 0.15])
        self.motion = motion or rng.choice(MOTIONS, p=[0.2, 0.2, 0.2, 0.2, 0.2])
        self.path = motion_path(rng, self.motion, looks_left and self.motion == "right")

    def caption(self, rng):
        """One of many wordings; all of them tell the object, the background and the motion."""
        parts = [subject_words(rng, self.name, self.colour)]
        extra = [motion_words(rng, self.motion, self.name), background_words(rng, self.background)]
        if rng.random() < 0.25:
            extra.reverse()
        parts += [e for e in extra if e]
        text = " ".join(parts).replace(" ,", ",")
        return text + "." if rng.random() < 0.1 else text


def subject_words(rng, name, colour):
    others, _, colours = OBJECTS[name]
    noun = name if not others or rng.random() < 0.7 else rng.choice(others)
    named = 0.65 if len(colours) > 1 else 0.2
    if colour and colour != noun and rng.random() < named:
        noun = f"{colour} {noun}"
    plural = noun.endswith(("cherries", "grapes"))
    article = "" if plural else ("an " if noun[0] in "aeiou" else "a ")
    draw = rng.random()
    if draw < 0.65:
        return article + noun
    if draw < 0.8:
        return noun
    if draw < 0.9:
        return "the " + noun
    return rng.choice(["a picture of ", "a drawing of ", "an image of "]) + article + noun


def motion_words(rng, motion, name):
    if motion in ("right", "left"):
        verbs = ["moving", "moving", "moving", "going", "sliding"]
        if name in ("car", "truck", "train"):
            verbs += ["driving"]
        elif name in ("airplane", "bird", "bee", "helicopter", "rocket", "butterfly"):
            verbs += ["flying"]
        elif name in ("dog", "cat", "horse", "fox", "rabbit"):
            verbs += ["running", "walking"]
        elif name in ("fish", "whale", "duck", "turtle"):
            verbs += ["swimming"]
        way = rng.choice(["to the {}", "to the {}", "{}", "towards the {}"]).format(motion)
        return f"{rng.choice(verbs)} {way}"
    if motion == "bouncing":
        return rng.choice(["bouncing", "bouncing", "bouncing up and down", "jumping", "that is bouncing"])
    if motion == "growing":
        return rng.choice(["growing", "growing", "growing bigger", "getting bigger", "getting larger"])
    return rng.choice(["", "", "", "", "", "standing still", "not moving"])


def background_words(rng, background):
    if background == DEFAULT_BACKGROUND:
        return rng.choice(["", "", "", "", "on a grey background", "on a plain background"])
    form = rng.choice(["on a {} background"] * 4 + ["with a {} background", "in front of a {} background",
                                                   "on {}", ", {} background"])
    return form.format(background)


def background_rgb(scenes):
    return torch.tensor([BACKGROUNDS[s.background] for s in scenes]) / 255.0


def render_scenes(objects, scenes, frames=FRAMES):
    """The first `frames` frames of each scene: [b, 3, frames, 64, 64]."""
    pictures = objects.pictures[[s.picture for s in scenes]]
    paths = torch.tensor(np.stack([s.path[:frames] for s in scenes]), dtype=torch.float32)
    return render(pictures, paths, background_rgb(scenes))
