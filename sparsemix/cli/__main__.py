"""`python -m sparsemix.cli`: the same as the command `sparsemix`."""

import sys

from sparsemix.cli import main

sys.exit(main())
