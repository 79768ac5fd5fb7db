#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes entities.inc: HTML's named character references from Python's html.entities, sorted by bytes.

python lib/text/entities.py > lib/text/entities.inc"""
from html.entities import html5


def wrap(items, glue):
    line = ""
    for item in items:
        if len(line) + len(item) > 112:
            print("   ", line)
            line = ""
        line += (glue if line else "") + item
    print("   ", line)


def main():
    rows = sorted(html5.items(), key=lambda item: item[0].encode())
    entries, at = [], 0
    for name, value in rows:
        points = [ord(c) for c in value]
        assert 1 <= len(points) <= 2 and name.isascii() and len(name) <= 32
        # The cleaner makes room for twice the text.
        assert len(value.encode()) <= 2 * (1 + len(name))
        assert len(points) == 1 or points[1] < 0x10000
        entries.append("{ 0x%X, 0x%X, %d, %d }," % (points[0], points[1] if len(points) == 2 else 0, at, len(name)))
        at += len(name)
    print("/* SPDX-License-Identifier: MIT */")
    print("/* Made by entities.py: the names without their \"&\" one after the other, and for each its code points,")
    print(" * where its name begins and how long that is, in the order of the names' bytes. */")
    print("static const char entity_names[] =")
    text = "".join(name for name, _ in rows)
    for i in range(0, len(text), 112):
        print('    "%s"%s' % (text[i:i + 112], ";" if i + 112 >= len(text) else ""))
    print("static const entity entities[] = {")
    wrap(entries, " ")
    print("};")


if __name__ == "__main__":
    main()
