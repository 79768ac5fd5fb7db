# SPDX-License-Identifier: MIT
"""Captions of scenes in Japanese, for the core objects: short noun phrases and sentences of simple grammar."""

from motions import CAMERA

COLOUR = {"red": "赤い", "blue": "青い", "yellow": "黄色い", "green": "緑の", "orange": "オレンジ色の", "purple": "紫の",
          "pink": "ピンクの", "brown": "茶色い", "grey": "灰色の", "white": "白い", "black": "黒い", "light blue": "水色の",
          "light green": "黄緑の", "dark blue": "紺色の", "dark green": "深緑の", "turquoise": "青緑の"}
SHADE = {"red": "赤", "blue": "青", "yellow": "黄色", "green": "緑", "orange": "オレンジ色", "purple": "紫", "pink": "ピンク",
         "brown": "茶色", "grey": "灰色", "white": "白", "black": "黒", "light blue": "水色", "light green": "黄緑",
         "dark blue": "紺色", "dark green": "深緑", "turquoise": "青緑"}
GROUND = {"meadow": "草原", "sky": "青空", "sea": "海", "beach": "砂浜", "desert": "砂漠", "night": "夜", "space": "宇宙",
          "snow": "雪の中", "room": "部屋", "underwater": "水中", "sunset": "夕焼け", "road": "道路", "park": "公園", "forest": "森",
          "autumn forest": "秋の森"}
STYLE = {"3D emoji": "3Dの", "flat emoji": "フラットな", "noto emoji": "アニメ風の", "color emoji": "", "game art": "ゲーム風の"}
SIZE = {"small": "小さな", "large": "大きな"}
PLACE = {"left": "左側", "right": "右側", "top": "上側", "bottom": "下側", "centre": "真ん中", "top left": "左上", "top right": "右上",
         "bottom left": "左下", "bottom right": "右下"}
RELATION = {"left of": "左", "right of": "右", "above": "上", "below": "下", "next to": "隣"}
WAY = {"left": "左へ", "right": "右へ", "up": "上へ", "down": "下へ", "up left": "左上へ", "up right": "右上へ",
       "down left": "左下へ", "down right": "右下へ"}
TURN = {"clockwise": "時計回りに", "counterclockwise": "反時計回りに"}
# Before a noun, and at the end of a sentence.
VERB = {"slide": ("動く", "動いている"), "bounce": ("弾む", "弾んでいる"), "hop": ("跳ねて進む", "跳ねて進んでいる"),
        "spin": ("回る", "回っている"), "rock": ("左右に揺れる", "左右に揺れている"), "grow": ("大きくなる", "大きくなっている"),
        "shrink": ("小さくなる", "小さくなっている"), "shake": ("震える", "震えている"), "fall": ("落ちる", "落ちている"),
        "orbit": ("円を描いて動く", "円を描いて動いている"), "appear": ("現れる", "現れる"), "disappear": ("消える", "消える")}
SPEED = {"slow": "ゆっくり", "fast": "速く", "": ""}
THINGS = {"sailboat", "ship", "airplane", "helicopter", "rocket", "UFO", "balloon", "kite", "snowman", "robot", "alien", "ghost"}


def counter(concept):
    if concept.home == "road":
        return "台"
    return "匹" if concept.home in ("land", "water", "air") and concept.name not in THINGS else "つ"


class Writer:
    def __init__(self, rng, scene, always=()):
        self.rng, self.scene, self.said, self.always = rng, scene, set(), always

    def maybe(self, share, part):
        if self.rng.random() < share or part in self.always:
            self.said.add(part)
            return True
        return False

    def noun(self, item):
        names = item.concept.japanese
        text = names[0] if self.rng.random() < 0.75 else names[self.rng.integers(len(names))]
        colour = item.shown_colour()
        if colour and SHADE[colour] not in text and self.maybe(0.7, "colour"):
            text = COLOUR[colour] + text
        if item.size_word and self.maybe(0.85, "size"):
            text = SIZE[item.size_word] + text
        return text

    def things(self):
        scene = self.scene
        if scene.layout == "same":
            n = len(scene.items)
            return f"{n}{counter(scene.items[0].concept)}の{self.noun(scene.items[0])}"
        nouns = [self.noun(i) for i in scene.items]
        if scene.layout == "pair" and scene.relation == "around":
            self.said |= {"motion", "direction"}
            return f"{nouns[1]}のまわりを{TURN[scene.motion.direction]}回る{nouns[0]}"
        if scene.layout == "pair" and scene.relation:
            return f"{nouns[1]}の{RELATION[scene.relation]}の{nouns[0]}"
        return "と".join(nouns)

    def ground(self):
        g = self.scene.ground
        self.said.add("ground")
        if g.kind == "drawn":
            return GROUND[g.name] + "の"
        if g.kind == "gradient":
            return f"{SHADE[g.name]}から{SHADE[g.second]}へのグラデーション背景の"
        return COLOUR[g.name] + "背景の"

    def motion(self, form):
        """The verb with direction and speed; form 0 stands before a noun, 1 ends a sentence."""
        m = self.scene.motion
        self.said.add("motion")
        text = (WAY | TURN).get(m.direction, "")
        if text:
            self.said.add("direction")
        if m.speed and self.maybe(0.8, "speed"):
            text = SPEED[m.speed] + text
        return text + VERB[m.kind][form]

    def camera(self):
        m = self.scene.motion
        self.said |= {"motion", "direction"}
        if m.kind == "zoom":
            return "カメラがズーム" + ("イン" if m.direction == "in" else "アウト")
        return f"カメラが{WAY[m.direction]}動く"

    def write(self):
        scene, rng = self.scene, self.rng
        things = self.things()
        styles = scene.styles()
        style = STYLE[next(iter(styles))] if len(styles) == 1 else ""
        front = self.ground() if rng.random() < 0.75 or "ground" in self.always else ""
        if scene.place and self.maybe(0.85, "place"):
            front += PLACE[scene.place] + "の"
        if style and self.maybe(0.25, "style"):
            front += style
        kind = scene.motion.kind
        moves = kind not in ("still", *CAMERA) and scene.relation != "around" and (rng.random() < 0.92 or "motion" in self.always)
        if kind in CAMERA:
            text = front + things + "、" + self.camera()
        elif moves and scene.movers == "first":
            text = f"{front}{things}、{scene.items[0].concept.japanese[0]}が{self.motion(1)}"
        elif moves and scene.layout in ("one", "same") and rng.random() < 0.5:
            text = front + self.motion(0) + things
        elif moves:
            text = front + things + "が" + self.motion(1)
        else:
            text = front + things
        return text + "。" * (rng.random() < 0.15), frozenset(self.said)


def write(rng, scene, always=()):
    """(text, what it names); the parts in `always` are named wherever the scene has them."""
    return Writer(rng, scene, always).write()
