"""What the zoo and the tests are made with."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it asks for torchvision, which nobody needs
