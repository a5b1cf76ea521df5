"""`python -m unending`, the same as the command `unending`."""

import sys

from unending.cli import main

sys.exit(main())
