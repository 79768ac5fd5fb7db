# SPDX-License-Identifier: MIT
"""What the VAE learns to code: compositions of all cut-outs on grounds of many kinds, pictures and clips of 128x128.

No captions here, and more kinds of pictures than the transformer is ever taught, so that the VAE need not be trained again when
the scenes change. Drawn from a seeded generator: a resumed run sees what it would have seen.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import data

SIZE = 128
HELD_OUT = 25  # every 25th caption is kept for measuring
GROUNDS = ("plain", "gradient", "noise", "shapes")


def held_out(rows):
    """The rows of the manifest that are kept for measuring: every 25th caption, in all its styles."""
    kept = set(sorted({r["caption"] for r in rows})[::HELD_OUT])
    return [r["caption"] in kept for r in rows]


def read_cutouts(shared, rows, cache=None):
    """Every cut-out as uint8 [n, 4, 128, 128], colour multiplied by alpha."""
    if cache and cache.exists():
        return torch.load(cache, weights_only=True)["cutouts"]
    cutouts = torch.from_numpy(np.stack([premultiplied(data.read_cutout(shared, r)) for r in rows]))
    if cache:
        torch.save({"cutouts": cutouts}, cache)
    return cutouts


def premultiplied(image):
    a = np.asarray(image.resize((SIZE, SIZE)) if image.size != (SIZE, SIZE) else image, np.float32)
    a[..., :3] *= a[..., 3:] / 255
    return a.round().astype(np.uint8).transpose(2, 0, 1)


def photos(shared):
    """The photographs as [n, 3, 128, 128] in -1..1: their middle square, made smaller."""
    found = []
    for path in sorted((shared / "photos").iterdir()):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            continue
        image = Image.open(path).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.LANCZOS)
        found.append(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return torch.from_numpy(np.stack(found))


def smooth_noise(rng, cells):
    """A field [3, 128, 128] of random colours that changes over about 128 / cells pixels."""
    field = torch.from_numpy(rng.random((1, 3, cells, cells), np.float32))
    return F.interpolate(field, (SIZE, SIZE), mode="bicubic", align_corners=False)[0]


def drawn_shapes(rng):
    """Bands, discs and boxes in random colours with soft edges."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    ground = torch.from_numpy(rng.random((3, 1, 1), np.float32)).expand(3, SIZE, SIZE)
    for _ in range(rng.integers(1, 7)):
        cx, cy, r = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(6, 60)
        kind = rng.integers(3)
        if kind == 0:
            inside = r - ((x - cx) ** 2 + (y - cy) ** 2).sqrt()
        elif kind == 1:
            inside = r - torch.maximum((x - cx).abs(), (y - cy).abs() * rng.uniform(0.5, 2))
        else:
            angle = rng.uniform(0, np.pi)
            inside = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        weight = (inside + 0.5).clamp(0, 1)
        colour = torch.from_numpy(rng.random((3, 1, 1), np.float32))
        ground = ground + weight * (colour - ground)
    return ground


def ground(rng, kind):
    """[3, 128, 128] in 0..1."""
    if kind == "plain":
        return torch.from_numpy(rng.random((3, 1, 1), np.float32)).expand(3, SIZE, SIZE)
    if kind == "gradient":
        return smooth_noise(rng, 2)
    if kind == "shapes":
        return drawn_shapes(rng).clamp(0, 1)
    total = sum(smooth_noise(rng, cells) * (cells ** -rng.uniform(0.6, 1.3)) for cells in (2, 5, 13, 32, 64, 128))
    low, high = total.amin(), total.amax()
    return (total - low) / (high - low)


def paths(rng, count, frames):
    """Placements [count, frames, 5] of cut-outs: centre x and y, width, height, angle; gentle random motion."""
    t = np.linspace(0, 1, frames)[None] if frames > 1 else np.zeros((1, 1))
    seconds = (frames - 1) / 12
    def walk(low, high, speed):
        start = rng.uniform(low, high, (count, 1))
        moves = rng.random((count, 1)) < 0.5
        wave = np.sin(2 * np.pi * (t * seconds * rng.uniform(0.2, 0.9, (count, 1)) + rng.random((count, 1))))
        straight = (t - 0.5) * seconds
        way = np.where(rng.random((count, 1)) < 0.5, wave * 0.35, straight)
        return start + moves * way * rng.uniform(-speed, speed, (count, 1))
    size = np.exp(rng.uniform(np.log(30), np.log(125), (count, 1))) * np.exp(walk(0, 0, 0.6))
    stretch = np.exp(walk(-0.1, 0.1, 0.15))
    mirror = rng.choice([-1, 1], (count, 1))
    angle = np.where(rng.random((count, 1)) < 0.7, 0, walk(-0.7, 0.7, 2.0))
    x, y = walk(24, 104, 60), walk(24, 104, 60)
    return np.stack([x, y, size * stretch * mirror, size / stretch, angle], 2).astype(np.float32)


def draw(cutouts, path, canvas):
    """Draws cut-outs uint8 [n, 4, 128, 128], moving along path [n, t, 5], on canvas [n, 3, t, 128, 128] in 0..1."""
    n, t, _ = path.shape
    p = torch.from_numpy(path).reshape(n * t, 5)
    cos, sin = p[:, 4].cos(), p[:, 4].sin()
    width, height = SIZE / p[:, 2], SIZE / p[:, 3]
    dx, dy = 1 - p[:, 0] / (SIZE / 2), 1 - p[:, 1] / (SIZE / 2)
    theta = torch.stack([torch.stack([cos * width, sin * width, (cos * dx + sin * dy) * width], 1),
                         torch.stack([-sin * height, cos * height, (cos * dy - sin * dx) * height], 1)], 1)
    grid = F.affine_grid(theta, (n * t, 4, SIZE, SIZE), align_corners=False)
    source = cutouts.float() / 255
    half = F.avg_pool2d(source, 2)
    small = (torch.from_numpy(np.abs(path[:, :, 2:4]).min((1, 2))) < 72).view(-1, 1, 1, 1)
    source = torch.where(small, F.interpolate(half, scale_factor=2, mode="bilinear"), source)
    source = source[:, None].expand(-1, t, -1, -1, -1).reshape(n * t, 4, SIZE, SIZE)
    cut = F.grid_sample(source, grid, align_corners=False).view(n, t, 4, SIZE, SIZE).transpose(1, 2)
    return cut[:, :3] + (1 - cut[:, 3:]) * canvas


class Source:
    def __init__(self, shared, cache=None):
        rows = data.manifest(shared)
        held = [kept for row, kept in zip(rows, held_out(rows)) if data.there(shared, row)]
        rows = [row for row in rows if data.there(shared, row)]  # some may be left behind where all would be too much to carry
        cutouts, held = read_cutouts(shared, rows, cache), torch.tensor(held)
        self.learnt, self.held = cutouts[~held], cutouts[held]
        self.held_files = {r["file"] for r, kept in zip(rows, held) if kept}
        self.photos = photos(shared)

    def clips(self, rng, count, frames, held=False, kinds=GROUNDS, weights=(0.45, 0.25, 0.08, 0.22)):
        """[count, 3, frames, 128, 128] in -1..1."""
        pool = self.held if held else self.learnt
        names = rng.choice(kinds, count, p=weights)
        canvas = torch.stack([ground(rng, kind) for kind in names])[:, :, None].expand(-1, -1, frames, -1, -1)
        for layer in range(3):
            here = np.flatnonzero(rng.random(count) < (1, 0.5, 0.25)[layer])
            if len(here) == 0:
                continue
            chosen = pool[torch.from_numpy(rng.integers(len(pool), size=len(here)))]
            canvas = canvas.clone()
            canvas[here] = draw(chosen, paths(rng, len(here), frames), canvas[here])
        return canvas.clamp(0, 1) * 2 - 1

    def pictures(self, rng, count, **options):
        return self.clips(rng, count, 1, **options)[:, :, 0]
