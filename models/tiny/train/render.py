# SPDX-License-Identifier: MIT
"""Draws scenes: float frames [3, t, 128, 128] in -1..1, without aliasing."""

import math

import numpy as np
import torch
import torch.nn.functional as F

import grounds
import motions
import objects

SIDE = 128


def ground_frames(ground, frames, zoom, shift):
    """The ground in every frame, [3, t, SIDE, SIDE] in 0..1."""
    if np.ptp(shift) > 0:
        left = math.floor(shift.min())
        wide = math.ceil(np.ptp(shift)) + 2
        rgb = channels(grounds.paint(ground, left, 0, SIDE + wide))
        steps = [(int(s - left), (s - left) % 1) for s in shift]
        return torch.stack([rgb[..., i:i + SIDE] * (1 - f) + rgb[..., i + 1:i + 1 + SIDE] * f for i, f in steps], 1)
    if np.ptp(zoom) > 0 and ground.kind != "plain":
        rgb = channels(grounds.paint(ground, scale=1.25))
        theta = torch.zeros(frames, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = torch.from_numpy(1 / zoom)
        grid = F.affine_grid(theta, (frames, 3, SIDE, SIDE), align_corners=False)
        return F.grid_sample(rgb.expand(frames, -1, -1, -1), grid, padding_mode="border",
                             align_corners=False).transpose(0, 1).contiguous()
    return channels(grounds.paint(ground))[:, None].repeat(1, frames, 1, 1)


def channels(rgb):
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def sampled(source, path, x0, y0, n, mirror):
    """Windows [t, 4, n, n] at the corners (x0, y0) of the frames; source [1 or t, 4, s, s], premultiplied, 0..1."""
    t = len(path.x)
    theta = np.zeros((t, 2, 3), np.float32)
    c, s = np.cos(np.radians(path.angle)), np.sin(np.radians(path.angle))
    dx, dy = x0 + n / 2 - path.x, y0 + n / 2 - path.y
    flip = -1 if mirror else 1
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = c * n, s * n, 2 * (c * dx + s * dy)
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = -s * n, c * n, 2 * (c * dy - s * dx)
    theta[:, 0] *= flip / path.width[:, None]
    theta[:, 1] /= path.height[:, None]
    grid = F.affine_grid(torch.from_numpy(theta), (t, 4, n, n), align_corners=False)
    return F.grid_sample(source.expand(t, -1, -1, -1), grid, align_corners=False)


def level_of(side):
    """The smallest level of a pyramid that is no smaller than what is drawn."""
    return max((i for i, s in enumerate(objects.LEVELS) if s >= side * 0.97), default=0)


def part(path, keep):
    """Some of a path's frames."""
    some = motions.Path(0, 0, 0, 0)
    for name, values in vars(path).items():
        setattr(some, name, values[keep])
    return some


def draw(out, store, item, path):
    """Lays one object onto the frames `out` [3, t, SIDE, SIDE]."""
    side = np.maximum(path.width, path.height)
    turned = math.sqrt(2) if np.any(path.angle) else 1.0
    levels = np.array([level_of(s) for s in side])
    for level in np.unique(levels):
        keep = np.flatnonzero(levels == level)
        some = part(path, keep)
        n = math.ceil(side[keep].max() * turned) + 2
        x0, y0 = np.floor(some.x - n / 2 + 0.5), np.floor(some.y - n / 2 + 0.5)
        still = len(keep) > 1 and all(np.ptp(v) == 0 for v in vars(some).values())
        if item.animated:
            source = store.animated(item.cutout.file)
            source = source[(item.start + keep) % len(source)].float() / 255
            source = F.interpolate(source, (objects.LEVELS[level],) * 2, mode="bilinear", antialias=True) if level > 1 else source
        else:
            source = store.picture(item.cutout.file, item.colour)[level][None].float() / 255
            if still:  # drawn once
                some, x0, y0 = part(some, slice(1)), x0[:1], y0[:1]
        cut = sampled(source, some, x0, y0, n, item.mirror)
        cut *= torch.from_numpy(some.opacity).float()[:, None, None, None]
        cut = cut.transpose(0, 1)
        cut[:3] = cut[:3] * 2 - cut[3:]  # premultiplied colours in -1..1
        lay(out, cut, keep, x0.astype(int), y0.astype(int), n)


def lay(out, cut, frames, x0, y0, n):
    """Windows [4, t or 1, n, n] onto frames of `out`, cut off at the picture's edges."""
    same = cut.shape[1] == 1
    groups = [(slice(frames[0], frames[-1] + 1), slice(0, 1), 0)] if same and len(frames) == np.ptp(frames) + 1 else \
        [(slice(f, f + 1), slice(0, 1) if same else slice(i, i + 1), 0 if same else i) for i, f in enumerate(frames)]
    for f, source, i in groups:
        left, top, right, bottom = max(x0[i], 0), max(y0[i], 0), min(x0[i] + n, SIDE), min(y0[i] + n, SIDE)
        if left < right and top < bottom:
            window = cut[:, source, top - y0[i]:bottom - y0[i], left - x0[i]:right - x0[i]]
            region = out[:, f, top:bottom, left:right]
            region.mul_(1 - window[3:]).add_(window[:3])


def frames_of(scene, store):
    """The frames of a scene, [3, t, SIDE, SIDE] in -1..1."""
    zoom, shift = motions.camera(scene.motion, scene.frames)
    out = ground_frames(scene.ground, scene.frames, zoom, shift).mul_(2).sub_(1)
    for item, path in zip(scene.items, scene.paths):
        if scene.motion.kind in motions.CAMERA:
            path = part(path, slice(None))
            path.x, path.y = (path.x - SIDE / 2) * zoom + SIDE / 2 - shift, (path.y - SIDE / 2) * zoom + SIDE / 2
            path.width, path.height = path.width * zoom, path.height * zoom
        draw(out, store, item, path)
    return out.clamp_(-1, 1)


def batch(scenes, store):
    """[b, 3, t, SIDE, SIDE] of scenes with equally many frames."""
    return torch.stack([frames_of(s, store) for s in scenes])
