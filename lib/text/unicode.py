#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes graphemes.inc: the classes that the grapheme rules of UAX #29 need, as ranges of code points.

Needs the `regex` package, whose Unicode tables it asks: python lib/text/unicode.py > lib/text/graphemes.inc
The tables are those of Unicode 17, as in the tokenizers library whose ids the tokenizer has to give; `regex` may be
newer."""
import sys

import regex

CLASSES = ["Control", "Extend", "ZWJ", "RI", "Prepend", "SpacingMark", "L", "V", "T"]
ASKED = {"RI": "Regional_Indicator"}
FLAGS = {"InCB=Consonant": "CONSONANT", "InCB=Linker": "LINKER", "InCB=Extend": "JOINER"}
# Code points with a class that came after Unicode 17.
LATER = [(0x5C8, 0x5C9), (0xB53, 0xB54), (0x1ADE, 0x1ADF), (0x1AEC, 0x1AF0), (0x10ECB, 0x10ECF), (0x10EF0, 0x10EF9),
         (0x11DF0, 0x11DF0), (0x1D127, 0x1D128), (0x1D250, 0x1D252), (0x1D25B, 0x1D25C), (0x1D25F, 0x1D25F),
         (0x1D280, 0x1D281)]


def matches(prop):
    pattern = regex.compile(r"\p{%s}" % prop)
    return {c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and pattern.match(chr(c))}


def main():
    name = {}
    for cls in CLASSES:
        for c in matches("GCB=" + ASKED.get(cls, cls)):
            name[c] = "G_" + cls.upper()
    for c in matches("Extended_Pictographic"):
        name.setdefault(c, "G_PICTOGRAPH")
    for prop, flag in FLAGS.items():
        for c in matches(prop):
            name[c] = name.get(c, "G_OTHER") + " | G_" + flag
    ranges = []
    for c in sorted(name):
        if c < 0x80 or any(first <= c <= last for first, last in LATER):
            continue
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == name[c]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, name[c]])
    print("/* SPDX-License-Identifier: MIT */")
    print("/* Made by unicode.py, Unicode 17. Code points from U+0080 whose class is not G_OTHER;"
          " Hangul syllables are computed. */")
    line = ""
    for first, last, cls in ranges:
        item = "{ 0x%X, 0x%X, %s }," % (first, last, cls)
        if len(line) + len(item) > 118:
            print(line)
            line = ""
        line += (" " if line else "") + item
    print(line)
    print(len(ranges), "ranges", file=sys.stderr)


if __name__ == "__main__":
    main()
