"""What the zoo and the tests are made with."""

import os

os.environ.setdefault(
    "TRANSFORMERS_VERBOSITY", "error"
)  # before it is imported: it warns of torchvision, which nobody needs
