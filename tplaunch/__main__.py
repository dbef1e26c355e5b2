"""`python -m tplaunch`: the same as `tplaunch`."""

import sys

from tplaunch.launcher.cli import main

sys.exit(main())
