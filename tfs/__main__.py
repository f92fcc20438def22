"""`python -m tfs` is `tfs`."""

import sys

from tfs.cli import main

sys.exit(main())
