"""Where problems come from: behavior files, JSONL files, reasoning-gym, and the behaviors that come with the package."""

from posttrain.diagnose.behaviors.behavior_files import bundled_behaviors, load_behavior, load_behaviors

__all__ = ["bundled_behaviors", "load_behavior", "load_behaviors"]
