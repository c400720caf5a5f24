"""Imported once by the server that killed runs are forked from, and with it what the libraries import to load a model."""

import torch

from diffalign.backbones import load_backbone
from diffalign.training import resume, train

__all__ = ["resume", "train"]

torch.set_num_threads(1)  # a process with threads must not be forked
load_backbone("sd", "zoo://shapes-sd")
