# SPDX-License-Identifier: MIT
"""A stand-in for libimagine.so made from public headers alone: every function that they declare, with an empty body, real
types and debug information. Programs of an older version are linked against the stand-in of that version's headers, and
the guard is tried on stand-ins of headers with a planted change."""

import pathlib
import re
import subprocess


def declared(headers):
    """The functions that the headers in a folder declare."""
    text = "".join(path.read_text() for path in sorted(pathlib.Path(headers).glob("*.h")))
    return sorted(set(re.findall(r"IMAGINE_API\s[^;{]*?\b(imagine_\w+)\s*\(", text)))


def build(include, library, nodes):
    """Compiles the headers of include/imagine into `library`; `nodes` are (version node, symbols), the oldest first."""
    library = pathlib.Path(library)
    text = subprocess.run(["gcc", "-E", "-x", "c", "-", "-I", include, "-DIMAGINE_BUILD"], check=True, text=True,
                          input="#include <imagine/imagine.h>\n", capture_output=True).stdout
    # IMAGINE_API has become an attribute; each declaration that begins with it gets a body.
    text = re.sub(r'(__attribute__\(\(visibility\("default"\)\)\)[^;{]*\));', r"\1 { __builtin_trap(); }", text)
    source, script = library.with_suffix(".c"), library.with_suffix(".map")
    source.write_text(text)
    previous = ""
    lines = []
    for node, symbols in nodes:
        hidden = " local: *;" if not previous else ""
        lines.append(f"{node} {{ global: {' '.join(s + ';' for s in symbols)}{hidden} }}{previous};")
        previous = " " + node
    script.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-g", "-O0", "-w", "-shared", "-fPIC", source, "-o", library, "-Wl,-soname,libimagine.so.0",
                    f"-Wl,--version-script,{script}"], check=True)
