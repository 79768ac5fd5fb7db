# SPDX-License-Identifier: MIT
"""Captions of scenes, in English: tags, a short phrase, a sentence, or all that it takes to redraw the scene.

Everything that shows can be named: objects, style, colours, count, place, size, relation, ground, motion, direction and
speed. Parts are dropped at random, so that short prompts work; what is named is always true. `japanese.py` has the same in
Japanese.
"""

import re
from dataclasses import dataclass

import japanese
from motions import CAMERA

EMPTY, JAPANESE = 0.1, 0.16  # shares of captions; Japanese is for the core only
LENGTHS = {"tags": 0.12, "short": 0.34, "sentence": 0.36, "full": 0.18}
# How often a part is named, by length.
NAMED = {"tags": dict(style=0.4, colour=0.7, size=0.8, place=0.8, ground=0.75, motion=0.9, speed=0.7),
         "short": dict(style=0.15, colour=0.5, size=0.75, place=0.7, ground=0.5, motion=0.85, speed=0.5),
         "sentence": dict(style=0.4, colour=0.8, size=0.95, place=0.95, ground=0.95, motion=1, speed=0.9),
         "full": dict(style=1, colour=1, size=1, place=1, ground=1, motion=1, speed=1)}

STYLE = {  # adjective, what it is a picture of the thing as, tag
    "3D emoji": ("3D", "3D render", "3D style"),
    "flat emoji": ("flat", "flat drawing", "flat design"),
    "color emoji": ("shaded", "softly shaded drawing", "soft shading"),
    "noto emoji": ("cartoon", "cartoon", "cartoon style"),
    "game art": ("game art", "game sprite", "game art"),
}
SIZE = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
PLACE = {"left": ("on the left", "on the left side"), "right": ("on the right", "on the right side"),
         "top": ("at the top",), "bottom": ("at the bottom",), "centre": ("in the centre", "in the middle"),
         **{f"{a} {b}": (f"in the {a} {b} corner", f"at the {a} {b}") for a in ("top", "bottom") for b in ("left", "right")}}
RELATION = {"left of": ("to the left of", "left of", "on the left of"), "right of": ("to the right of", "right of"),
            "above": ("above", "over"), "below": ("below", "under"), "next to": ("next to", "beside"), "": ("and", "with")}
PLACES = {  # of drawn grounds, as after a noun, and as a noun
    "meadow": (("in a green meadow", "on green grass under a blue sky"), "a green meadow under a blue sky"),
    "sky": (("in a blue sky with clouds", "among the clouds"), "a blue sky with clouds"),
    "sea": (("at sea", "on the sea under a blue sky"), "the blue sea under a blue sky"),
    "beach": (("on a sandy beach", "on the beach"), "a sandy beach by the sea"),
    "desert": (("in the desert", "in a sandy desert"), "a sandy desert"),
    "night": (("at night", "at night under the stars"), "a night sky with stars over dark hills"),
    "space": (("in space", "in outer space among the stars"), "dark outer space with stars"),
    "snow": (("in the snow", "in a snowy landscape"), "a snowy landscape with falling snow"),
    "room": (("in a room", "in a room with a wooden floor"), "a room with a wooden floor"),
    "underwater": (("under water", "at the bottom of the sea"), "blue water with a sandy bottom"),
    "sunset": (("at sunset", "in front of a sunset over the sea"), "an orange and purple sunset over the sea"),
    "road": (("on a road", "on a grey road"), "a grey road with green grass and a blue sky"),
    "park": (("in a park", "in a park with trees"), "a green park with pale trees"),
    "forest": (("in a forest", "in a green forest"), "a forest of dark green fir trees"),
    "autumn forest": (("in an autumn forest", "in an orange autumn forest"), "an orange autumn forest"),
}
RUN = {"down": "from top to bottom", "right": "from left to right", "diagonal": "diagonally", "out": "from the centre outwards"}
COUNT = {2: ("two", "two", "a pair of", "2"), 3: ("three", "three", "3")}
SPEED = {"slow": ("slowly", "slowly", "gently"), "fast": ("quickly", "fast", "rapidly")}
WAY = {"left": ("to the left", "left"), "right": ("to the right", "right"), "up": ("up", "upwards"), "down": ("down", "downwards"),
       **{f"{v} {h}": (f"diagonally {v} to the {h}", f"{v} and to the {h}") for v in ("up", "down") for h in ("left", "right")}}
TURN = {"clockwise": ("clockwise",), "counterclockwise": ("counterclockwise", "anticlockwise")}
VERBS = {"slide": ("moving", "moving", "sliding", "gliding"), "bounce": ("bouncing", "bouncing up and down", "jumping up and down"),
         "hop": ("hopping", "hopping along"), "spin": ("spinning", "rotating", "turning"),
         "rock": ("rocking from side to side", "swinging back and forth", "wobbling"),
         "grow": ("growing", "growing bigger", "getting bigger"), "shrink": ("shrinking", "getting smaller"),
         "shake": ("shaking", "trembling"), "fall": ("falling down", "falling", "dropping to the ground"),
         "orbit": ("moving in a circle", "going round in a circle"), "appear": ("appearing", "fading in"),
         "disappear": ("disappearing", "fading out"), "still": ("standing still", "not moving")}
GOING = {"road": ("driving", "rolling"), "air": ("flying", "flying"), "sky": ("floating",)}
UNCOUNTED = {"cherries", "broccoli", "bread", "french fries", "fire", "corn", "cheese", "pizza", "coffee",
             "ice", "cooked rice", "curry rice", "bacon", "butter", "spaghetti", "garlic", "popcorn", "soap", "sushi", "salt",
             "wood", "oden", "fondue", "leafy green", "green salad", "canned food", "nail polish", "yarn", "thread", "zzz",
             "sake"}


@dataclass
class Caption:
    text: str
    said: frozenset  # of "style", "colour", "size", "place", "ground", "motion", "direction", "speed"
    language: str = "en"


def one_of(rng, words):
    return words[rng.integers(len(words))]


def article(noun):
    """With "a" or "an" before it, or with nothing before plurals and what is not counted."""
    head = re.split(" (?:with|of|in|on) ", noun)[0]
    last = head.split()[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us"))
    if plural or any(noun == u or noun.endswith(" " + u) for u in UNCOUNTED if " of " not in noun):
        return noun
    vowel = noun[0].lower() in "aeiou" and not re.match(r"(?i)(uni|ufo|eu|one)", noun)
    return ("an " if vowel else "a ") + noun


class Writer:
    """Writes one caption: draws what to name, and keeps what it has named."""

    def __init__(self, rng, scene, length=None, always=()):
        """`always`: parts that are named wherever the scene has them."""
        self.rng, self.scene, self.said, self.called = rng, scene, set(), ""  # called: the first object's noun
        self.length = length or tuple(LENGTHS)[rng.choice(4, p=list(LENGTHS.values()))]
        named = NAMED[self.length]
        self.name = {part: part in always or rng.random() < share for part, share in named.items()}
        styles = scene.styles()
        self.style = STYLE[next(iter(styles))] if len(styles) == 1 and self.name["style"] else None
        self.prefixed = self.style and self.length in ("short", "sentence") and rng.random() < 0.4

    def says(self, part):
        self.said.add(part)

    def noun(self, item, plural=False):
        """Colour and name, without an article."""
        names = (item.concept.name,) if plural or not item.concept.core else (item.concept.name,) * 3 + item.concept.others
        noun = item.concept.plural if plural else one_of(self.rng, names)
        self.called = self.called or noun
        colour = item.shown_colour()
        if colour and self.name["colour"] and colour not in noun and item.concept.core:
            noun = f"{colour} {noun}"
            self.says("colour")
        if self.style and not self.prefixed and self.length != "tags":
            noun = f"{self.style[0]} {noun}"
            self.says("style")
        if item.size_word and self.name["size"]:
            noun = f"{one_of(self.rng, SIZE[item.size_word])} {noun}"
            self.says("size")
        return noun

    def counted(self):
        items = self.scene.items
        return f"{one_of(self.rng, COUNT[len(items)])} {self.noun(items[0], plural=True)}"

    def subject(self):
        """All objects and how they stand to each other."""
        scene, rng = self.scene, self.rng
        if scene.layout == "one":
            return article(self.noun(scene.items[0]))
        if scene.layout == "same":
            return self.counted() + one_of(rng, ("", "", " side by side", " in a row"))
        phrases = [article(self.noun(i)) for i in scene.items]
        if scene.layout == "three":
            return f"{phrases[0]}, {phrases[1]} and {phrases[2]}" + one_of(rng, ("", " in a row", " from left to right"))
        if scene.relation == "around":
            verb = one_of(rng, ("circling around", "going round", "orbiting"))
            self.says("motion")
            return f"{phrases[0]} {verb} {phrases[1]}{self.turn()}{self.speed()}"
        if scene.relation in ("left of", "right of") and rng.random() < 0.2:
            sides = ("left", "right") if scene.relation == "left of" else ("right", "left")
            return f"{phrases[0]} on the {sides[0]} and {phrases[1]} on the {sides[1]}"
        return f"{phrases[0]} {one_of(rng, RELATION[scene.relation])} {phrases[1]}"

    def turn(self):
        if self.length == "short" and self.rng.random() < 0.25:
            return ""
        self.says("direction")
        return " " + one_of(self.rng, TURN[self.scene.motion.direction])

    def speed(self):
        speed = self.scene.motion.speed
        if not speed or not self.name["speed"]:
            return ""
        self.says("speed")
        return " " + one_of(self.rng, SPEED[speed])

    def motion(self):
        """What the objects do, as a participle; "" for nothing to tell or for the camera."""
        motion, rng = self.scene.motion, self.rng
        item = self.scene.items[0]
        if item.animated:
            self.says("motion")
            return item.concept.others[0]
        skip = motion.kind in CAMERA or self.scene.relation == "around" or self.scene.frames == 1
        if skip or not self.name["motion"] or (motion.kind == "still" and self.length != "full" and rng.random() < 0.6):
            return ""
        self.says("motion")
        verb = one_of(rng, VERBS[motion.kind])
        if motion.kind == "slide" and self.scene.layout in ("one", "same"):
            verb = one_of(rng, VERBS["slide"][:2] + GOING.get(item.concept.home, ("moving",)))
        if motion.kind in ("slide", "hop"):
            verb += " " + one_of(rng, WAY[motion.direction])
            self.says("direction")
        elif motion.kind in ("spin", "orbit"):
            verb += self.turn()
        speed = self.speed()
        return f"{speed.strip()} {verb}".strip() if speed.endswith("ly") and rng.random() < 0.6 else verb + speed

    def camera(self):
        motion, rng = self.scene.motion, self.rng
        if motion.kind not in CAMERA or not self.name["motion"]:
            return ""
        self.said |= {"motion", "direction"}
        if motion.kind == "zoom":
            return one_of(rng, ("the camera zooms {}", "zooming {}")).format(motion.direction)
        return one_of(rng, ("the camera pans {}", "the camera moves {}", "panning {}")).format(
            "to the " + motion.direction) + self.speed()

    def ground(self):
        """A phrase after the subject, and a noun."""
        g, rng = self.scene.ground, self.rng
        self.says("ground")
        if g.kind == "drawn":
            phrases, noun = PLACES[g.name]
            return one_of(rng, phrases), noun
        if g.kind == "gradient":
            run = " " + RUN[g.direction] if self.length == "full" or rng.random() < 0.4 else ""
            fade = f"background fading from {g.name} to {g.second}{run}"
            return "on a " + fade, f"a {fade}"
        plain = one_of(rng, ("", "", "plain ")) + g.name
        form = one_of(rng, ("on {} background",) * 3 + ("with {} background", "in front of {} background"))
        return form.format(article(plain)), f"{article(plain)} background"

    def background(self):
        """The ground in a sentence of its own."""
        g, rng = self.scene.ground, self.rng
        self.says("ground")
        if g.kind == "drawn":
            return one_of(rng, ("the background is {}", "behind it is {}", "the scene is {}")).format(PLACES[g.name][1])
        if g.kind == "gradient":
            return f"the background {one_of(rng, ('fades', 'changes'))} from {g.name} to {g.second} {RUN[g.direction]}"
        return f"the background is {one_of(rng, ('', 'plain '))}{g.name}"

    def place(self):
        if not self.scene.place or not self.name["place"]:
            return ""
        self.says("place")
        return one_of(self.rng, PLACE[self.scene.place])

    def movers(self):
        """Who moves, where that needs saying."""
        if self.scene.layout == "pair":
            return f"the {self.called}" if self.scene.movers == "first" else "both"
        return "all" if self.scene.layout == "three" else ""

    def tags(self):
        parts = [self.subject(), self.place(), self.motion(), self.camera()]
        if self.name["ground"]:
            parts.append(self.ground()[1].removeprefix("a ").removeprefix("an ").removeprefix("the "))
        if self.style:
            parts.append(self.style[2])
            self.says("style")
        if self.scene.layout == "one":
            parts[0] = re.sub("^an? ", "", parts[0])
        if parts[2] and self.scene.layout == "pair" and self.scene.motion.kind != "still":
            parts[2] = f"{self.movers()} {parts[2]}"
        return ", ".join(p for p in parts if p)

    def phrase(self):
        scene, rng = self.scene, self.rng
        text = self.subject()
        if self.prefixed:
            text = f"{article(self.style[1])} of {text}"
            self.says("style")
        elif rng.random() < 0.08:
            forms = ("a picture of ", "an image of ", "a drawing of ") if scene.frames == 1 else ("a clip of ", "a video of ")
            text = one_of(rng, forms) + text
        motion, place = self.motion(), self.place()
        moved = scene.motion.kind != "still"
        if motion and self.movers() and moved:
            text += f", {self.movers()} {motion}"
            motion = ""
        usual = scene.ground.kind == "plain" and scene.ground.name in ("white", "light blue", "grey") and self.length == "short"
        ground = self.ground()[0] if self.name["ground"] and not (usual and rng.random() < 0.4) else ""
        if place and ground and rng.random() < 0.4:
            place, ground = "", f"{place} {ground}" if scene.ground.kind != "drawn" else f"{ground}, {place}"
        order = [motion, place, ground] if rng.random() < 0.75 else [place, ground, motion]
        text = " ".join([text] + [o for o in order if o])
        camera = self.camera()
        return text + (f", {camera}" if camera else "")

    def full(self):
        """Several sentences with everything."""
        scene = self.scene
        first = self.subject()
        place = self.place()
        text = f"{first} {place}".strip()
        if len(scene.styles()) == 1:
            text += f", drawn in {self.style[2]}" if "style" not in self.said else ""
            self.says("style")
        sentences = [text, self.background()]
        motion = self.motion()
        if motion:
            who = self.movers() or ("it" if len(scene.items) == 1 else "they")
            who = {"both": "both of them", "all": "all of them"}.get(who, who)
            is_are = "is" if who == "it" or who.startswith("the ") else "are"
            sentences.append(f"{who} {is_are} {motion}")
        camera = self.camera()
        if camera:
            sentences.append(camera if camera.startswith("the camera") else f"the camera is {camera}")
        return " ".join(s[0].upper() + s[1:] + "." for s in sentences)

    def write(self):
        text = {"tags": self.tags, "short": self.phrase, "sentence": self.phrase, "full": self.full}[self.length]()
        if self.length in ("short", "sentence") and self.rng.random() < 0.15:
            text = text[0].upper() + text[1:] + "."
        return Caption(text, frozenset(self.said))


def caption(rng, scene):
    """A caption for training: sometimes empty, sometimes Japanese."""
    draw = rng.random()
    if draw < EMPTY:
        return Caption("", frozenset())
    if draw < EMPTY + JAPANESE and all(i.concept.japanese for i in scene.items):
        return Caption(*japanese.write(rng, scene), "ja")
    return Writer(rng, scene).write()
