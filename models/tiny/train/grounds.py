# SPDX-License-Identifier: MIT
"""Grounds that objects stand on: plain colours, gradients, and drawn places.

A ground is painted in scene coordinates, in which a picture is 128 wide and high and y runs down, for any window and
scale, so that a moving camera sees more of the same place.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

import data

SIDE = 128

PLAIN = {
    "white": (250, 250, 250), "black": (18, 18, 20), "grey": (150, 152, 156), "red": (222, 44, 44),
    "orange": (246, 140, 40), "yellow": (252, 218, 70), "green": (60, 170, 70), "blue": (44, 104, 224),
    "purple": (134, 62, 186), "pink": (250, 164, 200), "brown": (124, 78, 46), "light blue": (160, 212, 248),
    "light green": (170, 228, 150), "dark blue": (20, 34, 96), "dark green": (16, 74, 44), "turquoise": (42, 192, 190),
}
USUAL = ("white", "light blue", "grey")  # what stands behind an object when nobody asks

DIRECTIONS = ("down", "right", "diagonal", "out")  # which way a gradient runs from its first colour to its second

GAME = {"park": ("GRASSY-BG",), "forest": ("FOREST-BG",), "autumn forest": ("FALL-BG",)}
DRAWN = ("meadow", "sky", "sea", "beach", "desert", "night", "space", "snow", "room", "underwater", "sunset", "road",
         *GAME)
# Where the horizon of a drawn ground lies, as a share of the height; things that do not fly stand below.
HORIZON = {"meadow": 0.62, "sea": 0.55, "beach": 0.66, "desert": 0.6, "night": 0.78, "snow": 0.62, "room": 0.72,
           "sunset": 0.62, "road": 0.6, "park": 0.66, "forest": 0.66, "autumn forest": 0.62}


@dataclass(frozen=True)
class Ground:
    kind: str  # "plain", "gradient" or "drawn"
    name: str  # a colour of PLAIN or a place of DRAWN
    second: str = ""  # the gradient's other colour
    direction: str = ""  # and its direction
    seed: int = 0

    def words(self):
        """What the split between training and held-out scenes goes by."""
        return f"{self.name} {self.second}".strip() if self.kind == "gradient" else self.name


def choose(rng, kind):
    seed = int(rng.integers(1 << 30))
    if kind == "drawn":
        return Ground(kind, DRAWN[rng.integers(len(DRAWN))], seed=seed)
    names = list(PLAIN)
    if kind == "plain":
        usual = rng.random() < 0.3
        return Ground(kind, USUAL[rng.integers(len(USUAL))] if usual else names[rng.integers(len(names))], seed=seed)
    a, b = rng.choice(len(names), 2, replace=False)
    return Ground(kind, names[a], names[b], DIRECTIONS[rng.integers(len(DIRECTIONS))], seed)


class Canvas:
    """A window onto a place: colours [h, w, 3] in 0..1, with x [1, w] and y [h, 1] in scene coordinates."""

    def __init__(self, x0, y0, width, height, scale):
        self.x = (x0 + (np.arange(round(width * scale), dtype=np.float32) + 0.5) / scale)[None]
        self.y = (y0 + (np.arange(round(height * scale), dtype=np.float32) + 0.5) / scale)[:, None]
        self.scale = scale
        self.rgb = np.empty((self.y.size, self.x.size, 3), np.float32)

    def fill(self, colour):
        self.rgb[:] = np.float32(colour) / 255

    def blend(self, cover, colour):
        """Lays a colour over it; cover [h, w] or broadcastable, 0 to 1."""
        self.rgb += cover[..., None] * (np.float32(colour) / 255 - self.rgb)

    def fade(self, top, bottom, y0, y1):
        """Fills it with a colour that changes downwards."""
        k = np.clip((self.y - y0) / (y1 - y0), 0, 1)[..., None]
        self.rgb[:] = (np.float32(top) * (1 - k) + np.float32(bottom) * k) / 255

    def below(self, line):
        """Cover of what lies below a line y = line(x), one pixel soft."""
        return np.clip((self.y - line) * self.scale + 0.5, 0, 1)

    def spot(self, cx, cy, rx, ry, colour, strength=1.0, soft=1.0):
        """A filled ellipse whose rim is `soft` pixels wide, painted where it lies only."""
        pad = 2 * soft / self.scale
        i0, i1 = np.searchsorted(self.x[0], (cx - rx - pad, cx + rx + pad))
        j0, j1 = np.searchsorted(self.y[:, 0], (cy - ry - pad, cy + ry + pad))
        if i0 == i1 or j0 == j1:
            return
        d = 1 - np.hypot((self.x[:, i0:i1] - cx) / rx, (self.y[j0:j1] - cy) / ry)
        cover = np.clip(d * min(rx, ry) * self.scale / soft + 0.5, 0, 1) * strength
        part = self.rgb[j0:j1, i0:i1]
        part += cover[..., None] * (np.float32(colour) / 255 - part)


def waves(rng, x, height, length):
    """A gentle line of hills: two sines of random phase."""
    a, b = rng.uniform(0, 6.28, 2)
    return height * (0.6 * np.sin(x / length * 6.28 + a) + 0.4 * np.sin(x / length * 10.1 + b))


def shade(rng, colour, spread=10):
    return np.clip(np.float32(colour) + rng.uniform(-spread, spread, 3) + rng.uniform(-spread, spread), 0, 255)


def clouds(rng, c, count, low, high, colour=(255, 255, 255)):
    for _ in range(count):
        cx, cy, r = rng.uniform(-20, 148), rng.uniform(low, high), rng.uniform(6, 11)
        for k in range(4):
            dx, lift = (k - 1.5) * r * 0.9, r * 0.35 * (k in (1, 2))
            c.spot(cx + dx, cy - lift, r * (0.7 + 0.3 * (k in (1, 2))), r * 0.6, colour, 0.9, 2)


def stars(rng, c, count, low=0):
    rng = np.random.default_rng(rng.integers(1 << 30))
    for _ in range(count if c.scale > 0.5 else 0):
        r = rng.uniform(0.5, 1.1)
        c.spot(rng.uniform(-40, 168), rng.uniform(-30, SIDE if not low else low), r, r, (255, 250, 220), rng.uniform(0.5, 1))


def daylight(rng, c, horizon):
    c.fade(shade(rng, (104, 176, 244)), shade(rng, (200, 232, 252)), 0, horizon)


def meadow(rng, c, h):
    daylight(rng, c, h)
    clouds(rng, c, rng.integers(1, 4), 10, h - 34)
    c.blend(c.below(h - 6 + waves(rng, c.x, 4, 110)), shade(rng, (126, 196, 96)))
    c.blend(c.below(h + 4 + waves(rng, c.x, 3, 160)), shade(rng, (92, 172, 66)))
    for _ in range(rng.integers(0, 9)):
        colour = ((252, 224, 90), (250, 250, 250), (246, 150, 180))[rng.integers(3)]
        c.spot(rng.uniform(-20, 148), rng.uniform(h + 14, 126), 1.3, 1.3, colour)


def sky(rng, c, h):
    c.fade(shade(rng, (88, 164, 240)), shade(rng, (188, 226, 250)), 0, SIDE)
    clouds(rng, c, rng.integers(2, 6), 12, 116)


def sea(rng, c, h):
    daylight(rng, c, h)
    clouds(rng, c, rng.integers(0, 3), 10, h - 30)
    water = shade(rng, (30, 110, 190))
    c.blend(c.below(h), water)
    for k in range(5):
        y = h + 6 + 13 * k + rng.uniform(-2, 2)
        line = y + waves(rng, c.x, 1.2, 40)
        c.blend(c.below(line) * (1 - c.below(line + 2)), water + 34)


def beach(rng, c, h):
    daylight(rng, c, h - 22)
    clouds(rng, c, rng.integers(0, 3), 8, h - 50)
    c.blend(c.below(h - 22), shade(rng, (44, 150, 206)))
    c.blend(c.below(h - 2 + waves(rng, c.x, 2, 80)), (236, 248, 250))
    c.blend(c.below(h + 1 + waves(rng, c.x, 2, 80)), shade(rng, (240, 214, 156)))


def desert(rng, c, h):
    if rng.random() < 0.4:
        return game(rng, c, ("DESERT-BG", "DESERT2-BG")[rng.integers(2)])
    c.fade(shade(rng, (150, 206, 244)), shade(rng, (250, 232, 196)), 0, h)
    c.blend(c.below(h - 6 + waves(rng, c.x, 7, 90)), shade(rng, (236, 190, 118)))
    c.blend(c.below(h + 8 + waves(rng, c.x, 6, 140)), shade(rng, (222, 166, 90)))


def night(rng, c, h):
    c.fade(shade(rng, (14, 18, 56), 6), shade(rng, (48, 52, 116), 6), 0, h)
    stars(rng, c, 46, h - 6)
    c.blend(c.below(h + waves(rng, c.x, 6, 120)), shade(rng, (18, 26, 44), 5))


def space(rng, c, h):
    c.fill(shade(rng, (12, 10, 34), 6))
    c.spot(rng.uniform(0, 128), rng.uniform(0, 128), 70, 50, shade(rng, (52, 26, 92)), 0.6, 60)
    stars(rng, c, 70)


def snow(rng, c, h):
    c.fade(shade(rng, (132, 170, 212)), shade(rng, (190, 212, 234)), 0, h)
    c.blend(c.below(h - 6 + waves(rng, c.x, 6, 100)), shade(rng, (214, 228, 242), 5))
    c.blend(c.below(h + 6 + waves(rng, c.x, 4, 150)), shade(rng, (242, 246, 252), 4))
    for _ in range(36 if c.scale > 0.5 else 0):
        r = rng.uniform(0.7, 1.5)
        c.spot(rng.uniform(-40, 168), rng.uniform(-20, SIDE), r, r, (255, 255, 255), 0.9)


def room(rng, c, h):
    walls = ((244, 224, 190), (206, 224, 236), (226, 214, 236), (214, 232, 208), (246, 210, 204))
    c.fill(shade(rng, walls[rng.integers(len(walls))], 6))
    floor = shade(rng, (176, 122, 74))
    c.blend(c.below(h), floor)
    c.blend(c.below(h - 3) * (1 - c.below(h)), (250, 248, 244))
    for k in range(1, 4):
        y = h + (SIDE - h) * (k / 4) ** 1.3
        c.blend(c.below(y) * (1 - c.below(y + 1)), floor - 26)
    if rng.random() < 0.6:
        window(c, rng.uniform(10, 22) if rng.random() < 0.5 else rng.uniform(82, 94), 12)


def window(c, x, y):
    def box(x0, y0, x1, y1, colour):
        cover = np.clip(np.minimum(c.x - x0, x1 - c.x) * c.scale + 0.5, 0, 1)
        c.blend(cover * np.clip(np.minimum(c.y - y0, y1 - c.y) * c.scale + 0.5, 0, 1), colour)

    box(x, y, x + 26, y + 30, (250, 250, 248))
    box(x + 2, y + 2, x + 12, y + 28, (170, 214, 246))
    box(x + 14, y + 2, x + 24, y + 28, (170, 214, 246))


def underwater(rng, c, h):
    c.fade(shade(rng, (70, 176, 222)), shade(rng, (12, 64, 132)), -10, 130)
    c.blend(c.below(116 + waves(rng, c.x, 3, 90)), shade(rng, (206, 184, 128)))
    for _ in range(rng.integers(4, 12)):
        r = rng.uniform(0.8, 2)
        c.spot(rng.uniform(0, 128), rng.uniform(10, 110), r, r, (190, 230, 248), 0.7)


def sunset(rng, c, h):
    c.fade(shade(rng, (120, 66, 140)), shade(rng, (255, 170, 80)), -10, h)
    c.spot(rng.uniform(24, 104), h - 1, 11, 11, (255, 236, 150))
    c.blend(c.below(h), shade(rng, (86, 52, 104)))
    for k in range(4):
        y = h + 7 + 12 * k
        c.blend(c.below(y) * (1 - c.below(y + 2)), (170, 96, 110))


def road(rng, c, h):
    daylight(rng, c, h)
    clouds(rng, c, rng.integers(0, 3), 10, h - 30)
    c.blend(c.below(h - 4 + waves(rng, c.x, 3, 120)), shade(rng, (112, 184, 86)))
    c.blend(c.below(h + 10), shade(rng, (92, 94, 100), 6))
    middle = c.below(h + 29) * (1 - c.below(h + 32))
    c.blend(middle * (np.mod(c.x + rng.uniform(0, 24), 24) < 14), (246, 244, 236))


@lru_cache(16)
def game_picture(name, scale):
    image = Image.open(data.shared_folder() / "sprites" / "BGs" / f"{name}.png").convert("RGB")
    side = round(320 * scale)
    return np.asarray(image.resize((side, side), Image.BOX), np.float32) / 255


def game(rng, c, name):
    """A window of 128 by 128 from a picture taken as 320 wide with its horizon near the middle."""
    left, top = rng.uniform(32, 160), rng.uniform(106, 122)
    mirror = rng.random() < 0.5
    picture = game_picture(name, c.scale)
    column = np.clip(np.round((c.x[0] + left) * c.scale - 0.5).astype(int), 0, picture.shape[1] - 1)
    row = np.clip(np.round((c.y[:, 0] + top) * c.scale - 0.5).astype(int), 0, picture.shape[0] - 1)
    c.rgb[:] = (picture[:, ::-1] if mirror else picture)[row][:, column]


PAINTERS = {f.__name__: f for f in (meadow, sky, sea, beach, desert, night, space, snow, room, underwater, sunset, road)}


def gradient(c, first, second, direction):
    x, y = c.x / SIDE, c.y / SIDE
    k = {"down": y + 0 * x, "right": x + 0 * y, "diagonal": (x + y) / 2, "out": 1.5 * np.hypot(x - 0.5, y - 0.5)}[direction]
    k = np.clip(k, 0, 1)[..., None]
    c.rgb[:] = (np.float32(first) * (1 - k) + np.float32(second) * k) / 255


def paint(ground, x0=0.0, y0=0.0, width=SIDE, height=SIDE, scale=1.0):
    """Colours [h, w, 3] in 0..1 of a window of `width` by `height` at (x0, y0), `scale` pixels for each unit."""
    rng = np.random.default_rng(ground.seed)
    c = Canvas(x0, y0, width, height, scale)
    if ground.kind == "plain":
        c.fill(shade(rng, PLAIN[ground.name], 3))
    elif ground.kind == "gradient":
        gradient(c, PLAIN[ground.name], PLAIN[ground.second], ground.direction)
    elif ground.name in GAME:
        game(rng, c, GAME[ground.name][0])
    else:
        PAINTERS[ground.name](rng, c, SIDE * HORIZON.get(ground.name, 1) + rng.uniform(-5, 5))
    return c.rgb
