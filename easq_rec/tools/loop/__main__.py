"""`python -m easq_rec.tools.loop`."""

import sys

from easq_rec.tools.loop.command import main

sys.exit(main())
