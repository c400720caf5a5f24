"""Settings of the objectives on the policy's own trajectories and samples: online reinforcement learning."""

from __future__ import annotations
