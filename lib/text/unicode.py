#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes graphemes.inc: the classes that the grapheme rules of UAX #29 need, as ranges of code points.

Needs the `regex` package, whose Unicode tables it asks: python lib/text/unicode.py > lib/text/graphemes.inc"""
import sys

import regex

CLASSES = ["Control", "Extend", "ZWJ", "RI", "Prepend", "SpacingMark", "L", "V", "T"]
ASKED = {"RI": "Regional_Indicator"}
FLAGS = {"InCB=Consonant": "CONSONANT", "InCB=Linker": "LINKER", "InCB=Extend": "JOINER"}


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
        if c < 0x80:
            continue
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == name[c]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, name[c]])
    print("/* SPDX-License-Identifier: MIT */")
    print("/* Made by unicode.py. Code points from U+0080 whose class is not G_OTHER; Hangul syllables are computed. */")
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
