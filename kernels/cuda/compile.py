# SPDX-License-Identifier: MIT
"""Runs nvcc, and fails where ptxas only notes what makes a Hopper kernel slow: products of a warpgroup that it serialises
or fences by itself (C7509 to C7519), register counts that it ignores (C7508)."""

import re
import subprocess
import sys

done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
sys.stdout.write(done.stdout)
sys.exit(done.returncode or int(re.search(r"\(C75(0[89]|1\d)\)", done.stdout) is not None))
