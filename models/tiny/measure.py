# SPDX-License-Identifier: MIT
"""Judges clips against the truth of a held-out prompt (heldout.jsonl): what is there, where, how many, and how it moves."""

import numpy as np
import look
import tracks

SMALL, LARGE = 41, 79  # pixels of the larger side, between small, usual and large
LIKE = 0.25  # a piece this near to a picture of the core is an object, whatever else


class Finding:
    """An object found: its track, its likeliest names, and how near the likeliest picture is."""

    def __init__(self, gallery, frames, track):
        seen = [k for k, p in enumerate(track.pieces) if p]
        self.track = track
        self.looked = sorted({seen[0], seen[len(seen) // 2], seen[-1]})
        vectors = [v for k in self.looked for v in look.descriptions(frames[k], track.pieces[k])]
        self.names, self.distance = gallery.nearest(vectors)
        self.area = float(np.median([track.pieces[k].area for k in self.looked]))

    def score(self):
        """Small is better: near to a picture, and large."""
        return self.distance - 0.03 * np.log(self.area)

    def covers(self, other, k):
        """True where the boxes of two findings lie over each other in frame k, or nearly wherever both are seen."""
        a, b = self.track.pieces[k], other.track.pieces[k]
        if not a or not b:
            return False
        wide = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
        high = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
        return wide > 0 and high > 0 and wide * high > 0.35 * min(a.width * a.height, b.width * b.height)


def findings(gallery, frames, found):
    """Everything in a clip that could be an object, most likely first. `found` has several lists of pieces for each frame,
    by different rules: of findings in one place the likeliest stays."""
    k = max((0, len(frames) // 2, len(frames) - 1), key=lambda k: (sum(p.area for p in found[k][0]), -k))
    things = []
    for lists in zip(*found):
        things += [Finding(gallery, frames, tracks.follow(lists, k, p)) for p in lists[k]]
    kept = []
    for thing in sorted(things, key=Finding.score):
        if not any(thing.covers(other, k) for other in kept):
            kept.append(thing)
    return kept


def objects_in(things):
    """Those findings that are objects: as near to a picture as the nearest, or nearly, and not much smaller."""
    if not things:
        return []
    best = min(t.distance for t in things)
    near = [t for t in things if t.distance < max(LIKE, best + 0.06)]
    return [t for t in near if t.area > 0.08 * max(t.area for t in near)]


def size_of(track):
    side = np.nanmedian(track.values("side"))
    return "small" if side < SMALL else "large" if side > LARGE else ""


def place_of(track, place):
    """True where a track is in a place by name."""
    x, y = np.nanmean(track.values("x")), np.nanmean(track.values("y"))
    words = set(place.split())
    across = "left" if x < 47 else "right" if x > 81 else ""
    down = "top" if y < 47 else "bottom" if y > 81 else ""
    return {w for w in (across, down) if w} == words - {"centre"}


def related(relation, first, second):
    a, b = (np.array([np.nanmean(t.track.values(v)) for v in "xy"]) for t in (first, second))
    dx, dy = b - a
    if relation == "next to":
        return abs(dx) > abs(dy)
    return {"left of": dx > abs(dy), "right of": -dx > abs(dy), "above": dy > abs(dx), "below": -dy > abs(dx)}[relation]


def ground_right(named, truth):
    kind, name, second, _ = truth
    if kind == "gradient":
        return named.kind == "gradient" and {named.name, named.second} == {name, second}
    return named.kind == kind and named.name == name


def named(things, name):
    return min((t for t in things if name in t.names), key=lambda t: (t.names.index(name), t.distance), default=None)


class Judge:
    """Judges clips; the gallery of all core pictures is made once."""

    def __init__(self, catalogue, store):
        self.gallery, self.grounds = look.Gallery(catalogue, store), look.Grounds()

    def clip(self, frames, truth, said):
        """frames [t, 128, 128, 3] (u8), a truth and what the prompt names, as in heldout.jsonl, to {question: right or not,
        or a list of that}, with the distance of the nearest picture of the core under "nearest"."""
        ground = self.grounds.name(frames[0])
        palette = self.grounds.palette(ground)
        things = findings(self.gallery, frames, [look.pieces(f, palette) for f in frames])
        answers = objects_right(things, truth)
        answers["count"] = len(objects_in(things)) == len(truth["objects"])
        kind = truth["ground"][0]
        question = {"plain": "background colour", "gradient": "gradient's colours", "drawn": "drawn place"}[kind]
        answers[question] = ground_right(ground, truth["ground"])
        answers |= arrangement(things, truth)
        if len(frames) > 1 and "motion" in said:
            answers |= motion_right(frames, things, truth, ground.kind, "direction" in said)
        answers["nearest"] = things[0].distance if things else 1.0
        return answers


def objects_right(things, truth):
    """For each kind of object that was asked for: is it the first guess, or among five, for anything that was found?"""
    wanted = sorted({o[0] for o in truth["objects"]})
    names = [t.names for t in things[:1 if truth["layout"] == "one" else 6]]
    return {"object, first guess": [any(n[:1] == [w] for n in names) for w in wanted],
            "object, among five": [any(w in n for n in names) for w in wanted]}


def arrangement(things, truth):
    """Size and place of one object, relation of two."""
    answers = {}
    if truth["layout"] == "one":
        if truth["motion"][0] not in ("grow", "shrink", "zoom"):
            answers["size"] = bool(things) and size_of(things[0].track) == truth["objects"][0][3]
        if truth["place"]:
            answers["place"] = bool(things) and place_of(things[0].track, truth["place"])
    elif truth["layout"] == "pair" and truth["relation"] not in ("", "around"):
        a, b = (named(things, o[0]) for o in truth["objects"])
        answers["relation"] = bool(a and b and a is not b) and related(truth["relation"], a, b)
    return answers


def motion_right(frames, things, truth, ground_kind, direction_too):
    """Kind and direction of the object that moves; of several that move together, of the likeliest."""
    kind, direction, _ = truth["motion"]
    count = len(truth["objects"])
    told = tracks.camera(frames, [t.track for t in things[:count]]) if ground_kind != "plain" else None
    if not told and things:
        mover = things[0]
        if truth["layout"] == "pair":
            mover = named(things, truth["objects"][0][0]) or mover
        told = tracks.motion_of(frames, mover.track)
    told = told or ("nothing", "")
    answers = {"motion": told[0] == kind}
    if direction and direction_too:
        answers["direction"] = tuple(told) == (kind, direction)
    return answers
