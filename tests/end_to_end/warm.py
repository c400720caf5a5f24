"""Imported once by the server that the killed runs are forked from: with it, all that the libraries import when a model loads."""

import torch

from diffalign.backbones import load_backbone
from diffalign.training import resume, train

__all__ = ["resume", "train"]

torch.set_num_threads(1)  # a process with threads must not be forked
load_backbone("sd", "zoo://shapes-sd")
