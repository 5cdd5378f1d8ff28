"""Everything that can be known of a model without running it: `screen` before the download, `examine` after it."""

from evals.checks.examination import CHECKS, examine
from evals.checks.report import Examination
from evals.checks.screening import screen

__all__ = ["CHECKS", "Examination", "examine", "screen"]
