# SPDX-License-Identifier: MIT
"""Writes the man page of a built `imagine` from what its --help says, so that they cannot differ: manpage.py PROGRAM VERSION OUT"""

import os
import re
import subprocess
import sys
import time

OPTION = re.compile(r"^  (-\w), (--[\w-]+)(?: ([A-Z]+))? +(.*)$")
TAIL = r""".Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev IMAGINE_MODEL
The model pack, or the name of one, that is used where
.Fl -model
is not given.
.It Ev TMPDIR
Where latents go that can be put neither beside the output nor in the working
folder
.Pq Pa /tmp .
.El
.Sh EXIT STATUS
.Nm
exits 0 on success, 2 when the command line itself is wrong, and 1 after every
other failure, also for values that the model refuses; the reason goes to the
standard error output.
SIGINT, SIGTERM and SIGHUP cancel the work, after which the signal ends the
program; a second one ends it at once, and may leave a file ending with
.Pa .part .
What was to be written appears complete or not at all.
After an interrupt or a failure
.Cm generate
keeps the latents as far as they were sampled, in a file ending with
.Pa .latents.safetensors
beside the output, whose name it prints;
.Fl -resume
goes on with a run that was sampling, and
.Cm decode
makes frames of what there is.
While it samples it saves the same every minute, or as
.Fl -save-every
says, so that a run that is killed can be gone on with, too; once it is done that file is removed.
.Sh SEE ALSO
The C interface is documented in the headers,
.In imagine/imagine.h
first.
.Pp
Model packs are folders in the layout of the Python package diffusers.
Tensors between the stages are safetensors files.
"""


def helps(program, *command):
    return subprocess.run([program, *command, "--help"], check=True, capture_output=True, text=True).stdout


def escape(text):
    """Text that roff takes for text."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + text if text[:1] in (".", "'") else text


def quoted(text):
    """One argument of a macro."""
    return '"' + escape(text).replace('"', '""') + '"'


def options(text):
    lines = []
    for short, long, value, what in filter(None, (m and m.groups() for m in map(OPTION.match, text.splitlines()))):
        argument = f" Ar {value}" if value else ""
        lines += [f".It Fl {short[1:]} , Fl {escape(long[1:])}{argument}", escape(what)]
    return lines


def examples(text):
    """The lines under "Examples:", each with what follows two or more spaces as its explanation, and the paragraphs that
    follow them."""
    lines, after = [], text.partition("\nExamples:\n")[2]
    for line in after.splitlines():
        lines.append(f".Dl {quoted(line.strip())}" if line.startswith("  ") else escape(line) if line else ".Pp")
    return lines


def remarks(text):
    """Lines such as "Schedules: flow, ..." between the options and the examples."""
    before = text.partition("\nExamples:\n")[0]
    return [line for remark in re.findall(r"^[A-Z][\w ]+: .*", before, re.M) for line in (".Pp", escape(remark))]


def today():
    """The date of the page; SOURCE_DATE_EPOCH makes it that of a release."""
    return time.strftime("%B %-d, %Y", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))


def page(program, version):
    text = helps(program)
    commands = re.findall(r"^  (\w+) {2,}(.*)$", text.split("Examples:")[0], re.M)
    lines = [r'.\" SPDX-License-Identifier: MIT', f".Dd {today()}", ".Dt IMAGINE 1",
             f".Os libimagine {version}", ".Sh NAME",
             ".Nm imagine", ".Nd pictures and video from a prompt", ".Sh SYNOPSIS", ".Nm", ".Ar command", ".Op Ar options",
             ".Sh DESCRIPTION", "Generates pictures and clips with libimagine, or runs one of its stages.", "The commands are:"]
    for command, what in commands:
        usage = helps(program, command)
        argument = re.match(r"usage: imagine \w+(?: \[([A-Z]+)\])? \[options\]", usage)[1]
        lines += [f".Ss {command}", ".Nm", f".Cm {command}", *([f".Op Ar {argument}"] if argument else []), ".Op Ar options", ".Pp",
                  escape(what[0].upper() + what[1:]) + ".", ".Bl -tag -width Ds", *options(usage), ".El", *remarks(usage),
                  ".Pp", "Examples:", ".Pp",
                  *examples(usage)]
    return "\n".join(lines) + "\n" + TAIL


def main():
    program, version, out = sys.argv[1:]
    with open(out, "w") as file:
        file.write(page(program, version))


if __name__ == "__main__":
    main()
