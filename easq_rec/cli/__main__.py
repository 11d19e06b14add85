"""`python -m easq_rec.cli` is `easq-rec`."""

import sys

from easq_rec.cli.main import main

sys.exit(main())
