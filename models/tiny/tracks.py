# SPDX-License-Identifier: MIT
"""How things move in a clip, read off the frames: the part of the measurement that looks at many frames.

Pieces (look.py) are followed from frame to frame. Their middles, sizes and angles over time tell the motion; a moving
camera is told by how well the whole last frame is the whole first one, shifted or enlarged.
"""

import numpy as np
import torch
import torch.nn.functional as F

FPS = 12
NOISE, OUTLIER = 1.2, 16  # pixels: by how much places are off anyway, and by how much they are at most


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


def motion_of(frames, track):
    """(kind, direction) of a followed piece; the camera is somebody else's question."""
    area = np.nan_to_num(track.values("area"))
    if (area > 0).sum() < 3:
        return "nothing", ""
    seen = area > 0
    t = np.flatnonzero(seen) / FPS
    x, y, side = (track.values(n)[seen] for n in ("cx", "cy", "side"))
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
    turned = turning(frames, track) if max(np.ptp(x), np.ptp(y)) < 0.4 * side.mean() else ("", "")
    if turned[0] == "spin":
        return turned
    wide = np.hypot(np.ptp(x), np.ptp(y)) > 0.3 * side.mean()
    round_way = circling(x, y) if wide else ""
    if round_way and round_way == circling(track.values("x")[seen], track.values("y")[seen]):
        return "orbit", round_way
    told = likeliest(t, x, y, (len(area) - 1) / FPS)
    uneven = np.percentile(np.abs(side - np.median(side)), 80) / side.mean()
    if told[0] == "shake" and (np.ptp(x) <= 5 or np.ptp(y) >= 6 or uneven >= 0.08):
        told = "still", ""
    return turned if told[0] == "still" and turned[0] else told


def likeliest(t, x, y, length):
    """(kind, direction) of the motion that fits a path best, by the Bayesian information criterion. `t`: seconds [n], x and y [n];
    `length` of the clip in seconds."""
    one, k = np.ones_like(t), t / length
    (still_x, _, still_y, _) = (*fitted(x, one), *fitted(y, one))
    (line_x, (_, dx), line_y, (_, dy)) = (*fitted(x, one, k), *fitted(y, one, k))
    found = [(still_x + still_y, 2, ("still", "")),
             (line_x + line_y, 4, ("slide", way(dx, dy)) if np.hypot(dx, dy) > 8 else ("still", ""))]
    off, (_, far) = fitted(y, one, np.clip(t / min(length, 1.1), 0, 1) ** 2)
    if far > 25:
        found.append((still_x + off, 3, ("fall", "")))
    off, (_, down, jump) = fitted(y, one, k, np.abs(np.sin(np.pi * max(1, round(length * 1.6)) * k)))
    if jump < -5 and abs(dx) > 8 and abs(down) < 0.6 * abs(dx):
        found.append((line_x + off, 5, ("hop", "right" if dx > 0 else "left")))
    for rate in np.arange(1 / length, 2, 0.05):  # each is one more to choose among
        off, (_, jump) = fitted(y, one, np.abs(np.sin(np.pi * rate * t)))
        if jump < -8:
            found.append((still_x + off, 4, ("bounce", "")))
    for rate in np.arange(1.4, 3.2, 0.1):
        off, (_, far) = fitted(x, one, np.sin(2 * np.pi * rate * t))
        if abs(far) > 3:
            found.append((off + still_y, 4, ("shake", "")))
    n = 2 * len(t)
    return min(found, key=lambda f: n * np.log(f[0] / n + NOISE ** 2) + f[1] * np.log(n))[2]


def fitted(v, *columns):
    """(the sum of squares that is left, coefficients) of a fit to v that frames in which something else was followed pull little."""
    a, weight = np.stack(columns, 1), np.ones_like(v)
    for _ in range(8):
        best = np.linalg.lstsq(a * weight[:, None], v * weight, rcond=None)[0]
        off = np.abs(a @ best - v)
        weight = 1 / np.sqrt(1 + (off / 4) ** 2)
    return (np.minimum(off, OUTLIER) ** 2).sum(), best


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


def way(dx, dy):
    """One of the eight directions."""
    words = []
    if abs(dy) > 0.45 * abs(dx):
        words.append("down" if dy > 0 else "up")
    if abs(dx) > 0.45 * abs(dy):
        words.append("right" if dx > 0 else "left")
    return " ".join(words)


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
