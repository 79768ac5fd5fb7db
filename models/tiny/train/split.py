# SPDX-License-Identifier: MIT
"""What training never sees: combinations of a core object with a style, a motion, a ground, or another object, and some
cut-outs and animations outside the core.

Whether something is held out follows from a hash of its words, so that it is the same everywhere and for ever.
"""

import hashlib
from functools import lru_cache
from itertools import combinations

SHARES = {"style": 0.07, "motion": 0.07, "ground": 0.07, "pair": 0.12, "cutout": 0.05}


@lru_cache(None)
def is_held(kind, first, second):
    digest = hashlib.blake2b(f"{kind}/{first}/{second}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < SHARES[kind] * 2 ** 64


def held_combinations(scene):
    """The held-out combinations in a scene, as (kind, first, second)."""
    names = sorted({i.concept.name for i in scene.items if i.concept.core})
    asked = [("pair", a, b) for a, b in combinations(names, 2)]
    for k, item in enumerate(scene.items):
        if not item.concept.core:
            asked.append(("cutout", item.cutout.file, ""))
        else:
            asked += [("style", item.concept.name, item.cutout.style), ("ground", item.concept.name, scene.ground.words())]
            if scene.motion.kind != "still" and (scene.movers == "all" or k == 0):
                asked.append(("motion", item.concept.name, scene.motion.kind))
    return [c for c in dict.fromkeys(asked) if is_held(*c)]


def held_out(scene):
    return bool(held_combinations(scene))
