# SPDX-License-Identifier: MIT
"""What can stand in a scene: the core of core.tsv, all other emoji concepts, the animated emoji, and their cut-outs.

Cut-outs come from the shared data folder (pictures/manifest.jsonl has a line for each). They are read when first drawn,
multiplied by their alpha, and kept as bytes in a pyramid of sizes, so that drawing them small does not alias.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import data

CUTOUT = 128
LEVELS = (128, 91, 64, 45, 32, 23, 16)  # sides of a pyramid, each 0.7 of the last
STYLES = ("3D emoji", "flat emoji", "color emoji", "noto emoji", "game art")
ANIMATED = 96  # side at which animations are kept

PAINT = dict(data.PAINT)

# What a caption would name badly: symbols, letters, clocks, and the variants of people.
UNNAMED = re.compile(
    r"o’clock|-thirty|keycap|button|skin tone|^(wo)?m[ae]n[ :]|^(mx|person|people)[ :]|facing|family|kiss:|couple|zodiac|arrow|"
    r"[ :]sign|index|hand |hands|finger|fist|bust|clock|chart|folder|dividers|page|card file|suit$|yen|pound|euro|"
    r"breast|pregnant|deaf|middle|silhouette|claus|globe with|geometric|nazar|hamsa|mahjong|joker|playing cards|"
    r"map of|kaaba|temple|synagogue|mosque|shrine|love hotel|drop of blood|syringe|cigarette|coffin|urn|headstone|gun|pistol")
SHAPE = re.compile(r"^(red|orange|yellow|green|blue|purple|brown) (circle|square)$")
GROUPS = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion",
          "Travel & Places")


@dataclass(frozen=True)
class Cutout:
    file: str  # in pictures/, "drawn:..." or in animations/
    style: str
    looks: str  # "L", "R" or "-": the way it faces as it stands


@dataclass(frozen=True)
class Concept:
    name: str
    plural: str  # "" where it is never counted
    others: tuple
    japanese: tuple
    cutouts: tuple
    home: str  # where it belongs: land, water, air, ...
    colours: tuple  # the first is its own; with more than one, it is painted
    core: bool

    def styles(self):
        return tuple(dict.fromkeys(c.style for c in self.cutouts))

    def painted(self):
        return len(self.colours) > 1


def table(name):
    """The rows of a tab-separated file beside this one."""
    for line in (Path(__file__).parent / name).read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")


def regular_plural(name):
    if re.search(r"(s|x|ch|sh)$", name):
        return name + "es"
    return name[:-1] + "ies" if re.search(r"[^aeiou]y$", name) else name + "s"


class Catalogue:
    """All concepts: `core` (200), `others`, `animations`, `any` (every cut-out by itself), and `by_name` for the core."""

    def __init__(self, shared=None):
        self.shared = shared or data.shared_folder()
        rows = [r for r in data.manifest(self.shared) if data.there(self.shared, r)]
        self.game = {Path(r["file"]).stem: r["file"] for r in rows if r["style"] == "game art"}
        self.files = {}
        for r in rows:
            if r["style"] in STYLES[:4]:
                self.files.setdefault(r["caption"], {})[r["style"]] = r
        self.core = [self.core_concept(row) for row in table("core.tsv")]
        self.by_name = {c.name: c for c in self.core}
        self.others = self.other_concepts()
        self.any = [Concept(r["caption"], "", (), (), (Cutout(r["file"], r["style"], "-"),), "thing", (), False) for r in rows]
        self.animations = [self.animation(row) for row in table("animations.tsv") if (self.shared / "animations" / row[0]).exists()]

    def core_concept(self, row):
        name, plural, others, japanese, cutouts, looks, home, colours = row
        plural = "" if plural == "-" else plural or regular_plural(name)
        return Concept(name, plural, split(others), split(japanese), tuple(self.cutouts(cutouts, looks)), home,
                       tuple(colours.split()), True)

    def cutouts(self, names, looks):
        for name in names.split(","):
            if name.startswith("drawn:"):
                yield from (Cutout(name, s, "-") for s in STYLES[:1])
            elif name.startswith("g:"):
                yield Cutout(self.game[name[2:7]], "game art", "R" if name.endswith(">") else looks)
            else:
                found = self.files[name]
                yield from (Cutout(found[s]["file"], s, looks) for s in STYLES[:4] if s in found)

    def other_concepts(self):
        used = {name for row in table("core.tsv") for name in row[4].split(",")}
        found = []
        for caption, styles in sorted(self.files.items()):
            group = next((r["group"] for r in styles.values() if r["group"]), None)
            named = group in GROUPS and not UNNAMED.search(caption.lower())
            if caption not in used and (named or SHAPE.match(caption)):
                cutouts = tuple(Cutout(styles[s]["file"], s, "-") for s in STYLES[:4] if s in styles)
                found.append(Concept(caption, "", (), (), cutouts, "thing", (), False))
        return found

    def animation(self, row):
        file, name, motion = row
        return Concept(name, "", (motion,), (), (Cutout("animations/" + file, "noto emoji", "-"),), "thing", (), False)


def split(field):
    return tuple(field.split("|")) if field else ()


def pyramid(rgba):
    """Premultiplied bytes [4, s, s] for each side of LEVELS."""
    a = np.asarray(rgba, np.float32) / 255
    a[..., :3] *= a[..., 3:]
    t = torch.from_numpy(a).permute(2, 0, 1)[None]
    sizes = [t if s == t.shape[2] else F.interpolate(t, (s, s), mode="bilinear", antialias=True) for s in LEVELS]
    return [x[0].clamp(0, 1).mul(255).round().byte() for x in sizes]


class Store:
    """Reads cut-outs and animations once; safe to copy into worker processes."""

    def __init__(self, shared=None, animations=48):
        self.shared = shared or data.shared_folder()
        self.pyramids = {}
        self.animated = lru_cache(animations)(self.read_animation)

    def picture(self, file, colour=None):
        """The pyramid of a cut-out, repainted where a colour is given."""
        key = file, colour
        if key not in self.pyramids:
            if file.startswith("drawn:"):
                image = data.drawn_ball()
            else:
                image = Image.open(self.shared / "pictures" / file).convert("RGBA")
            self.pyramids[key] = pyramid(data.repaint(image, colour) if colour else image)
        return self.pyramids[key]

    def read_animation(self, file):
        """Premultiplied bytes [n, 4, ANIMATED, ANIMATED]."""
        frames = []
        with Image.open(self.shared / file) as image:
            for i in range(image.n_frames):
                image.seek(i)
                a = np.asarray(image.convert("RGBA"), np.float32) / 255
                frames.append(np.concatenate([a[..., :3] * a[..., 3:], a[..., 3:]], 2))
        t = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        t = F.interpolate(t, (ANIMATED, ANIMATED), mode="bilinear", antialias=True)
        return t.clamp(0, 1).mul(255).round().byte()

    def __getstate__(self):
        return {"shared": self.shared, "size": self.animated.cache_parameters()["maxsize"]}

    def __setstate__(self, state):
        self.__init__(state["shared"], state["size"])
