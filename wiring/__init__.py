"""The only place that turns settings into adapters. `platform()` returns those of this process.

The applications, the engine supervisor and the preparation of a home are modules of their own, for the entry points that need them.
"""

from wiring.adapters import Platform, platform

__all__ = ["Platform", "platform"]
