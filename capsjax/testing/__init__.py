"""Checks of routing algorithms, for those of this package and of any other framework.

from capsjax.testing import check_routing
print(check_routing(my_routing, "em", convert=torch.as_tensor))
"""

from capsjax.testing.check import check_routing
from capsjax.testing.claims import CLAIMS, Claims
from capsjax.testing.report import Finding, Report

__all__ = ["CLAIMS", "Claims", "Finding", "Report", "check_routing"]
