# SPDX-License-Identifier: MIT
"""How things move in a clip, read off the frames: the part of the measurement that looks at many frames.

Pieces (look.py) are followed from frame to frame. Their middles, sizes and angles over time tell the motion; a moving
camera is told by how well the whole last frame is the whole first one, shifted or enlarged.
"""

import numpy as np
import torch
import torch.nn.functional as F

FPS = 12


class Track:
    """One piece over time: x, y, side and area for every frame (nan where it was not seen), and the pieces."""

    def __init__(self, frames, start, piece):
        self.pieces = [None] * frames
        self.pieces[start] = piece

    def values(self, name):
        return np.array([getattr(p, name) if p else np.nan for p in self.pieces])


def follow(found, start, piece):
    """Follows a piece of frame `start` both ways through the pieces of every frame."""
    track = Track(len(found), start, piece)
    for step in (1, -1):
        last, k = piece, start + step
        while 0 <= k < len(found):
            near = min(found[k], key=lambda p: unlike(p, last), default=None)
            if near and unlike(near, last) < 1.1:
                track.pieces[k] = last = near
            k += step
    return track


def unlike(a, b):
    """How little two pieces of neighbouring frames look like one: distance over size, and change of size."""
    return np.hypot(a.x - b.x, a.y - b.y) / max(b.side, 12) + abs(np.log(a.side / b.side))


SHOWN = 300  # of 4,096 places of two pictures at half their size that both show the ground: with fewer nothing can be told


def camera(frames, followed):
    """("zoom" or "pan", direction), or None where the camera stands still: told by the ground around the objects."""
    x = torch.from_numpy(frames[[0, -1]].astype(np.float32)).permute(0, 3, 1, 2) / 255
    free = torch.ones(2, 1, 128, 128)
    for track in followed:
        for k, end in ((0, 0), (1, -1)):
            if track.pieces[end]:
                p = track.pieces[end]
                free[k, :, max(p.top - 2, 0):p.top + p.height + 2, max(p.left - 2, 0):p.left + p.width + 2] = 0
    x = F.avg_pool2d(torch.cat([x, free], 1), 2)
    first, last = x[:1], x[1:]
    still = apart(first, last)
    best = (1.0, None)
    for shift in list(range(-38, -2)) + list(range(3, 39)):
        a, b = (first[..., shift:], last[..., :-shift]) if shift > 0 else (first[..., :shift], last[..., -shift:])
        unmoved = apart(first[..., shift:], last[..., shift:]) if shift > 0 else apart(first[..., :shift], last[..., :shift])
        if 0.003 < unmoved < np.inf:
            best = min(best, (apart(a, b) / unmoved, ("pan", "right" if shift > 0 else "left")), key=lambda p: p[0])
    for zoom in (1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55, 1.6, 1.65):
        for a, b, way in ((first, last, "in"), (last, first, "out")):
            theta = torch.tensor([[[1 / zoom, 0, 0], [0, 1 / zoom, 0]]])
            grid = F.affine_grid(theta, a.shape, align_corners=False)
            err = apart(F.grid_sample(a, grid, align_corners=False), b)
            if 0.004 < still < np.inf:
                best = min(best, (err / still, ("zoom", way)), key=lambda p: p[0])
    return best[1] if best[0] < 0.5 else None


def apart(a, b):
    """The mean difference of two pictures where both show the ground (the fourth channel); infinite where they hardly do."""
    both = a[:, 3:] * b[:, 3:]
    if both.sum() < SHOWN:
        return np.inf
    return float(((a[:, :3] - b[:, :3]).abs() * both).sum() / (3 * both.sum()))


def turns(frames, track, limit=28, step=4):
    """Degrees (clockwise) by which a piece turns from frame to frame."""
    crops = []
    for frame, piece in zip(frames, track.pieces):
        crops.append(crop(frame, piece) if piece else crops[-1] if crops else None)
    crops = [c for c in crops if c is not None]
    angles = np.arange(-limit, limit + 1, step)
    c, s = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    theta = torch.from_numpy(np.stack([np.stack([c, s, 0 * c], 1), np.stack([-s, c, 0 * c], 1)], 1).astype(np.float32))
    grid = F.affine_grid(theta, (len(angles), 4, 40, 40), align_corners=False)
    y, x = np.mgrid[0:40, 0:40] - 19.5
    inside = torch.from_numpy((np.hypot(x, y) < 19).astype(np.float32))
    found = []
    for a, b in zip(crops, crops[1:]):
        turned = F.grid_sample(a.expand(len(angles), -1, -1, -1), grid, align_corners=False)
        err = (((turned - b) ** 2) * inside).sum((1, 2, 3)).numpy()
        k = int(err.argmin())
        shift = 0.0
        if 0 < k < len(err) - 1:
            below, above = err[k - 1] - err[k], err[k + 1] - err[k]
            shift = 0.5 * (below - above) / max(below + above, 1e-9)
        found.append((angles[k] + shift * step) if err[k] < 0.97 * err[len(err) // 2] else 0.0)
    return np.array(found)


def crop(frame, piece, out=40):
    """The surroundings of a piece's middle as [1, 4, out, out], a circle that holds it; the last channel is its mask."""
    half = 0.75 * max(piece.width, piece.height)
    square = np.zeros((128, 128, 4), np.float32)
    mask = piece.mask if hasattr(piece, "mask") else np.ones((piece.height, piece.width), bool)
    square[piece.box] = np.concatenate([frame[piece.box] / 255 * mask[..., None], mask[..., None]], 2)
    theta = torch.tensor([[[half / 64, 0, piece.cx / 64 - 1], [0, half / 64, piece.cy / 64 - 1]]], dtype=torch.float32)
    x = torch.from_numpy(square).permute(2, 0, 1)[None]
    return F.grid_sample(x, F.affine_grid(theta, (1, 4, out, out), align_corners=False), align_corners=False)


def crossings(v):
    """How often a series goes through its middle line."""
    signs = np.sign(v - (v.max() + v.min()) / 2)
    return int((np.diff(signs[signs != 0]) != 0).sum())


def motion_of(frames, track):
    """(kind, direction) of a followed piece; the camera is somebody else's question."""
    area = np.nan_to_num(track.values("area"))
    if (area > 0).sum() < 3:
        return "nothing", ""
    seen = area > 0
    t = np.flatnonzero(seen) / FPS
    x, y, side = (track.values(n)[seen] for n in ("cx", "cy", "side"))
    bottom = np.array([p.top + p.height for p in track.pieces if p], float)
    ends = max(1, len(x) // 8)
    ratio = side[-ends:].mean() / side[:ends].mean()
    full = np.percentile(area, 90)
    # What grows or shrinks keeps more than a twentieth of its area, unless it is so small that pieces of it are overlooked.
    if area[0] < 0.05 * full and area[-1] > 0.5 * full and (ratio < 1.6 or full > 400):
        return "appear", ""
    if area[-1] < 0.05 * full and area[0] > 0.5 * full and (ratio > 1 / 1.6 or full > 400):
        return "disappear", ""
    if ratio > 1.4 or ratio < 1 / 1.4:
        return ("grow" if ratio > 1 else "shrink"), ""
    dx, dy = x[-1] - x[0], y[-1] - y[0]
    off_x, off_y = bow(t, x), min(bow(t, y), bow(t, bottom))
    turned = turning(frames, track) if max(np.ptp(x), np.ptp(y)) < 0.4 * side.mean() else ("", "")
    if turned[0] == "spin":
        return turned
    wide = np.hypot(np.ptp(x), np.ptp(y)) > 0.3 * side.mean()
    round_way = circling(x, y) if wide else ""
    if round_way and round_way == circling(track.values("x")[seen], track.values("y")[seen]):
        return "orbit", round_way
    if abs(dx) > 8 and off_y > 7 and abs(dy) < 0.6 * abs(dx) and off_x < 7:
        return "hop", "right" if dx > 0 else "left"
    if off_y > 11 and np.ptp(x) < 12:
        return ("fall", "") if dy > 30 and falls(t, y) else ("bounce", "")
    if dy > 30 and abs(dx) < 8 and falls(t, y):
        return "fall", ""
    if np.hypot(dx, dy) > 8 and off_x < 6 and off_y < 9:
        return "slide", way(dx, dy)
    uneven = np.percentile(np.abs(side - np.median(side)), 80) / side.mean()
    if np.ptp(x) > 5 and crossings(x) >= 2 and np.ptp(y) < 6 and uneven < 0.08:
        return "shake", ""
    return turned if turned[0] else ("still", "")


def turning(frames, track):
    """("spin", direction) of what turns one way, ("rock", "") of what turns to and fro, ("", "") of what does not turn."""
    angles = turns(frames, track)
    total = np.cumsum(angles)
    one_way = abs(total[-1]) > 0.6 * np.abs(angles).sum()
    if abs(total[-1]) > (45 if one_way else 90):
        return "spin", "clockwise" if total[-1] > 0 else "counterclockwise"
    if np.ptp(total) > 9 and not one_way:
        return "rock", ""
    return ("spin", "clockwise" if total[-1] > 0 else "counterclockwise") if abs(total[-1]) > 22 else ("", "")


def bow(t, v):
    """How far a series leaves the straight line between its ends."""
    return np.ptp(v - np.interp(t, (t[0], t[-1]), (v[0], v[-1])))


def way(dx, dy):
    """One of the eight directions."""
    words = []
    if abs(dy) > 0.45 * abs(dx):
        words.append("down" if dy > 0 else "up")
    if abs(dx) > 0.45 * abs(dy):
        words.append("right" if dx > 0 else "left")
    return " ".join(words)


def falls(t, y):
    """True where it gets faster downwards: after a quarter of its time it has come a sixth of its way at most."""
    until = min(1.1, t[-1])
    return np.interp(0.4 * until, t, y) - y[0] < 0.25 * (np.interp(until, t, y) - y[0])


def circling(x, y):
    """The way round of a path that bends one way all along; "" of any other."""
    dx, dy = np.diff(x), np.diff(y)
    speed = np.hypot(dx, dy)
    if speed.sum() < 22 or np.hypot(np.ptp(x), np.ptp(y)) < 16:
        return ""
    angle = np.unwrap(np.arctan2(dy, dx)[speed > 0.4])
    if len(angle) < 5:
        return ""
    bend = np.diff(angle)
    total = angle[-2:].mean() - angle[:2].mean()
    steady = (np.sign(bend) == np.sign(total)).mean() > 0.65 and np.abs(bend).max() < 1.2
    even = speed.min() > 0.25 * speed.mean()
    return ("clockwise" if total > 0 else "counterclockwise") if abs(total) > 0.55 and steady and even else ""
