# SPDX-License-Identifier: MIT
"""What stands in a frame, and what it is: the part of the measurement that looks at single frames.

The ground behind the objects is estimated from the frame alone: a pixel belongs to it that looks like the rim of the
picture in about its row, like the blend of both ends of its row, or like a smooth surface fitted to the whole frame. What is
left falls into pieces. A piece is cropped to its box, reduced to 24x24 pixels and described by colour, shape and edge
directions; its nearest neighbours among all pictures of the core, described in the same way, name it.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

import grounds
import motions
import render
import scenes

SIDE = 128
GRID = 24  # pixels along a side of a described crop
APART = 26  # a pixel this far (of 255, largest channel) from the ground belongs to an object
LEAST = 60  # pixels of a piece


def surface(frame):
    """A smooth surface [h, w, 3] through most of a frame: quadratic plus distance from the centre, robustly fitted."""
    y, x = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE - 0.5
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, np.hypot(x, y)], -1).astype(np.float32)
    a, b = basis[2::4, 2::4].reshape(-1, 7), frame[2::4, 2::4].reshape(-1, 3)
    weight = np.ones(len(a), np.float32)
    for _ in range(12):
        fit = np.linalg.lstsq(a * weight[:, None], b * weight[:, None], rcond=None)[0]
        off = np.abs(a @ fit - b).max(1)
        weight = 1 / (1 + (off / 8) ** 2)
    return basis @ fit


def ground_likeness(frame):
    """How far each pixel [h, w] is from the nearest of the grounds that could be behind it, in 0 to 255."""
    left, right = np.median(frame[:, :3], 1), np.median(frame[:, -3:], 1)
    k = ((np.arange(SIDE) + 0.5) / SIDE)[None, :, None]
    blend = left[:, None] * (1 - k) + right[:, None] * k
    far = np.minimum(np.abs(frame - blend).max(2), np.abs(frame - surface(frame)).max(2))
    for shift in range(-12, 13, 2):
        for side in (left, right):
            rows = np.clip(np.arange(SIDE) + shift, 0, SIDE - 1)
            far = np.minimum(far, np.abs(frame - side[rows][:, None]).max(2))
    return far


class Piece:
    """One object's pixels in a frame: its box, the middle and sides of it, and its mask inside the box."""

    def __init__(self, mask, box):
        self.mask, self.box = mask[box], box
        self.filled = ndimage.binary_fill_holes(self.mask)
        self.top, self.left = box[0].start, box[1].start
        self.height, self.width = self.mask.shape
        self.x, self.y = self.left + self.width / 2, self.top + self.height / 2
        self.side, self.area = max(self.height, self.width), int(self.mask.sum())
        ys, xs = np.nonzero(self.mask)
        self.cx, self.cy = self.left + xs.mean() + 0.5, self.top + ys.mean() + 0.5


def pieces(frame, palette=None, joins=(1, 3)):
    """What in a frame [h, w, 3] (u8) is no ground: lists of pieces, largest first, one list for each of some distances (in
    pixels, doubled) over which parts count as one. With a palette [n, 3] there are as many lists more, from which
    everything is missing that has one of its colours."""
    frame = frame.astype(np.float32)
    far = ground_likeness(frame)
    masks = [far > APART]
    if palette is not None:
        near = np.abs(frame[:, :, None] - palette).max(3).min(2)
        masks.append(masks[0] & (near > APART))
    return [joined_pieces(thick(m), j) for m in masks for j in joins]


def thick(mask):
    """A mask without lines thinner than two pixels that lead away from what is thicker."""
    core = ndimage.binary_opening(mask, np.ones((2, 2)))
    return mask & ndimage.binary_dilation(core, iterations=2)


def joined_pieces(mask, joins):
    joined, _ = ndimage.label(ndimage.binary_dilation(mask, iterations=joins))
    found = []
    for k, box in enumerate(ndimage.find_objects(joined), 1):
        part = np.zeros_like(mask)
        part[box] = mask[box] & (joined[box] == k)
        if part[box].sum() >= LEAST:
            ys, xs = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            found.append(Piece(part, (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))))
    return sorted(found, key=lambda p: -p.area)[:10]


def describe(rgb, mask):
    """A vector of a crop [h, w, 3] (0..255) under a mask: colour, shape, and strengths of edge directions."""
    h, w = mask.shape
    side = max(h, w)
    square = np.zeros((4, side, side), np.float32)
    top, left = (side - h) // 2, (side - w) // 2
    square[:3, top:top + h, left:left + w] = (rgb.astype(np.float32) / 255 * mask[..., None]).transpose(2, 0, 1)
    square[3, top:top + h, left:left + w] = mask
    small = F.interpolate(torch.from_numpy(square)[None], (GRID, GRID), mode="area")[0].numpy()
    parts = [small[:3] - 0.5 * small[3], 0.7 * small[3:], edges(small[:3].mean(0))]
    return np.concatenate([p.ravel() / math.sqrt(p.size) for p in parts]).astype(np.float32)


def edges(grey):
    """Strengths of 8 edge directions in 6x6 cells."""
    dy, dx = np.gradient(grey)
    strength, angle = np.hypot(dx, dy), (np.arctan2(dy, dx) / (2 * np.pi) * 8).astype(int) % 8
    cells = np.zeros((8, 6, 6), np.float32)
    y, x = np.mgrid[0:GRID, 0:GRID] * 6 // GRID
    np.add.at(cells, (angle, y, x), strength)
    return 0.35 * np.sqrt(cells)


class Gallery:
    """Descriptions of every picture of the core, in every colour, as it stands and mirrored, small and large."""

    def __init__(self, catalogue, store, sizes=(30, 54)):
        self.names, vectors = [], []
        for concept in catalogue.core:
            for cutout in concept.cutouts:
                for colour in concept.colours if concept.painted() else (None,):
                    for size in sizes:
                        for mirror in (False, True):
                            vectors.append(described_cutout(store, cutout, colour, size, mirror))
                            self.names.append(concept.name)
        self.names = np.array(self.names)
        self.vectors = np.stack(vectors)
        self.squares = (self.vectors ** 2).sum(1)

    def distances(self, vectors):
        """The distance of each gallery picture from the nearest of some descriptions."""
        v = np.stack(vectors)
        d = self.squares + (v ** 2).sum(1)[:, None] - 2 * v @ self.vectors.T
        return np.sqrt(np.maximum(d.min(0), 0))

    def nearest(self, vectors, count=5):
        """(names, best first and each once; the distance of the best)."""
        d = self.distances(vectors)
        names = []
        for i in np.argsort(d):
            if self.names[i] not in names:
                names.append(str(self.names[i]))
                if len(names) == count:
                    break
        return names, float(d.min())


def described_cutout(store, cutout, colour, size, mirror):
    item = scenes.Item(None, cutout, colour, size, mirror=mirror)
    both = []
    for value in (-1.0, 1.0):  # on black and on white, so that the opacity follows
        out = torch.full((3, 1, SIDE, SIDE), value)
        render.draw(out, store, item, motions.Path(1, 64, 64, size))
        both.append((out[:, 0] + 1) * 127.5)
    opacity = (1 - (both[1] - both[0]).mean(0) / 255).numpy()
    mask = opacity > 0.5
    rgb = np.where(opacity[..., None] > 0.02, both[0].permute(1, 2, 0).numpy() / np.maximum(opacity, 0.02)[..., None], 0)
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    return describe(rgb[box].clip(0, 255), mask[box])


def descriptions(frame, piece):
    """Of a piece as it was found and, where it has holes, with what shows in them."""
    masks = [piece.mask] + ([piece.filled] if piece.filled.sum() > piece.area + 4 else [])
    return [describe(frame[piece.box], m) for m in masks]


class Grounds:
    """Names a ground by the rim of a frame, reduced to 16 colours along each side."""

    def __init__(self, seeds=10):
        self.grounds = [grounds.Ground("plain", n) for n in grounds.PLAIN]
        self.grounds += [grounds.Ground("gradient", a, b, d) for a in grounds.PLAIN for b in grounds.PLAIN if a != b
                         for d in grounds.DIRECTIONS]
        self.grounds += [grounds.Ground("drawn", n, seed=s) for n in grounds.DRAWN for s in range(seeds)]
        self.palettes = {}
        self.rims = np.stack([self.rim(grounds.paint(g, scale=0.25) * 255) for g in self.grounds])

    def palette(self, named):
        """The colours [n, 3] that a drawn place has anywhere, in any of its versions; None for other grounds."""
        if named.kind != "drawn":
            return None
        if named.name not in self.palettes:
            seen = np.concatenate([grounds.paint(g, scale=0.5).reshape(-1, 3) * 255 for g in self.grounds if g.name == named.name
                                   and g.kind == "drawn"])
            colours, counts = np.unique((seen // 24).astype(int), axis=0, return_counts=True)
            self.palettes[named.name] = (colours[counts > 0.003 * len(seen)] * 24 + 12).astype(np.float32)
        return self.palettes[named.name]

    @staticmethod
    def rim(frame):
        n = frame.shape[0]
        edge = max(1, n // 42)
        strips = [frame[:, :edge].mean(1), frame[:, -edge:].mean(1), frame[:edge].mean(0), frame[-edge:].mean(0)]
        return np.concatenate([np.median(s.reshape(16, n // 16, 3), 1) for s in strips]).ravel().astype(np.float32)

    def name(self, frame):
        rim = self.rim(frame.astype(np.float32))
        sides = rim.reshape(-1, 3)
        if (np.abs(sides - np.median(sides, 0)).max(1) < 8).mean() > 0.8:  # of one colour
            colours = np.array(list(grounds.PLAIN.values()))
            return self.grounds[int(np.abs(colours - np.median(sides, 0)).sum(1).argmin())]
        return self.grounds[int(np.abs(self.rims - rim).sum(1).argmin())]
