# SPDX-License-Identifier: MIT
"""Strings of many scripts for the tokenizer's tests, made from a seed: words are drawn from each script's letters."""
import random

SCRIPTS = {
    "latin": "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCDEFGHIJ",
    "accents": "àáâãäåçèéêëìíîïñòóôõöøùúûüýÿœßāăąćčďđēęěğıłńňőřśşšţťůűźżžơưạảấầẩẫậắằẵặẹẻẽếềểễệ",
    "greek": "αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώΑΒΓΔϊϋΐἀἁἂἃᾳᾴᾶ",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґАБВГДЎў",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئةىپچژگی",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשתםןץףך",
    "devanagari": "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "thai": "กขคฆงจฉชซญดตถทธนบปผพฟภมยรลวศษสหอฮะาเแโใไ",
    "chinese": "天地人日月山水火木金土中国大小上下左右红黄蓝绿白黑猫狗马鸟鱼花草苹果汽车飞机",
    "japanese": "あいうえおかきくけこさしすせそたちつてとなにぬねのアイウエオカキクケコ赤青白黒猫犬鳥魚",
    "korean": "가나다라마바사아자차카타파하고노도로모보소오조초코토포호빨간사과고양이개",
    "georgian": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ",
    "tamil": "அஆஇஈஉஊஎஏஐஒஓகஙசஞடணதநபமயரலவழளறன",
}
MARKS = {
    "latin": "\u0300\u0301\u0302\u0303\u0308\u030a\u0327\u0331\u0323",
    "cyrillic": "\u0306\u0308\u0301",
    "arabic": "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670",
    "hebrew": "\u05b0\u05b4\u05b5\u05b6\u05b7\u05b8\u05bc\u05c1",
    "devanagari": "ािीुूृेैोौंःँ्\u093c",
    "thai": "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e47\u0e48\u0e49\u0e4a\u0e4b\u0e4c",
    "japanese": "\u3099\u309a",
    "tamil": "ாிீுூெேைொோௌ்",
}
ODD = [
    "\u0000", "\u0001", "\u0008", "\t", "\n", "\r", "\r\n", "\u000b", "\u000c", "\u001b", "\u001c", "\u007f",
    "\u0080", "\u0085",
    "\u009f", "\u00a0", "\u00ad", "\u1680", "\u180e", "\u2000", "\u2003", "\u2009", "\u200b", "\u200c", "\u200d",
    "\u200e", "\u2028",
    "\u2029", "\u202f", "\u2060", "\u3000", "\ufeff", "\ufffd", "\uffff", "\ue000", "\U000f0000", "\U0010ffff",
    "\ufe0f",
    "ﬀ", "ﬁ", "ﬂ", "ﬃ", "ﬆ", "ĳ", "ǆ", "½", "²", "①", "㎏", "℃", "№", "™", "Ａ", "ｂ", "９", "！", "～", "ｱ", "ｶﾞ", "ﾊﾟ",
    "￥",
    "ﷺ", "ﻻ", "Å", "Ω", "K", "가", "각", "ᄀ", "\u1100\u1161\u11a8", "\u0041\u030a", "e\u0301",
    "\u1112\u1161\u11ab\u0301",
    "ﬁ\u0301", "²\u0308", "Ａ\u0301", "①\u0308", "e\u0301\u0323\u0302\u0308", "🙂", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷",
    "🇫🇷🇯🇵🇩", "❤️", "1️⃣", "🧑🏿‍🚀",
    "क्ष", "क्‍ष", "ক্ত", "ക്ഷ", "\U000110bda", "\u0600a", "\u0d4ea", "ำ", "กำ", "▁", "▁▁", "▁a", "_", "<0x41>",
    "<0x0A>", "<unk>",
    "</s>", "<pad>", "<s>", "<extra_id_0>", "<extra_id_7>", "<extra_id_77>", "</s", "<s", "&amp;", "&lt;b&gt;",
    "&#x41;", "&#0;",
    "&notit;", "&amp;amp;", "&eacute", "ſ", "ẞ", "İ", "ı", "Ǆ", "𝐀", "𝔘", "𠀀", "𓀀", "ꙮ", "\u0378", "\u2fff", "€",
    "£", "…", "—", "“”",
]
PLAIN = ("a red apple|the dog runs on a blue background|yellow car moving to the right|two cats, one hat|"
         "small green bird")


def word(rng, script):
    letters, marks = SCRIPTS[script], MARKS.get(script, "")
    text = ""
    for _ in range(rng.choice([1, 2, 2, 3, 3, 4, 5, 6, 8])):
        text += rng.choice(letters)
        if marks and rng.random() < (0.12 if script == "latin" else 0.35):
            text += rng.choice(marks)
            if rng.random() < 0.15:
                text += rng.choice(marks)
    return text


def sentence(rng, script, words):
    """Words of one script from a small stock, as a training text needs them."""
    stock = random.Random("stock " + script)
    known = [word(stock, script) for _ in range(150)]
    return " ".join(known[min(int(rng.expovariate(0.04)), 149)] for _ in range(words))


def corpus(seed, lines):
    rng = random.Random(seed)
    out = []
    for _ in range(lines):
        script = rng.choice(list(SCRIPTS))
        if rng.random() < 0.25:
            text = rng.choice(PLAIN.split("|"))
            out.append(text + rng.choice(["", ".", "!", ", " + rng.choice(PLAIN.split("|"))]))
        else:
            out.append(sentence(rng, script, rng.randint(3, 9)))
    return out


def one(rng, i):
    kind = i % 8
    scripts = list(SCRIPTS)
    if kind == 0:
        return sentence(rng, scripts[i // 8 % len(scripts)], rng.randint(1, 7))
    if kind == 1:
        return " ".join(word(rng, rng.choice(scripts)) for _ in range(rng.randint(1, 6)))
    if kind == 2:
        return rng.choice(PLAIN.split("|")) + rng.choice(ODD) + rng.choice(PLAIN.split("|"))[: rng.randint(0, 12)]
    if kind == 3:
        return "".join(rng.choice(ODD) for _ in range(rng.randint(1, 8)))
    if kind == 4:
        return "".join(word(rng, rng.choice(scripts)) + " " * rng.choice([0, 1, 1, 2, 3, 7])
                       for _ in range(rng.randint(1, 5)))
    if kind == 5:
        return rng.choice(ODD) + word(rng, rng.choice(scripts)) + rng.choice(ODD) * rng.randint(1, 3)
    if kind == 6:
        return "".join(rng.choice("aab ▁\t\u0301ﬁＡ\u200d") for _ in range(rng.randint(1, 14)))
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x900, 0xE00), (0x1100, 0x1200), (0x2000, 0x2C00),
              (0x3000, 0x3400), (0xAC00, 0xD7A4), (0xF900, 0xFFFE), (0x1F000, 0x1FB00), (0x10000, 0x20000),
              (0xE0000, 0xE01F0)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randint(1, 9)))


def strings(count, seed=7):
    rng = random.Random(seed)
    fixed = ["", " ", "   ", "a", " a", "a ", "  a  b  ", "</s>", " </s> ", "a</s>b", "a </s>  b",
             "<extra_id_0> <extra_id_1>",
             "▁", "▁a", "\u0301", "\u0301a", "\u200ba b", "a" * 300, "ab" * 150, " " * 120, "\u0301" * 40,
             "x \n\t y"]
    return (fixed + [one(rng, i) for i in range(count - len(fixed))])[:count]
