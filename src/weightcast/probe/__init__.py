"""How predictable are the weights of each layer of a trained network?"""

from weightcast.probe.measure import probe
from weightcast.probe.sites import explained
from weightcast.probe.table import Probe, ProbeRow

__all__ = ["Probe", "ProbeRow", "explained", "probe"]
