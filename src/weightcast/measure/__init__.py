"""What layers cost, how predictable they are, what they lost, and whether they learn."""

from weightcast.layers.counts import Ledger, LedgerRow, ledger
from weightcast.measure.compression import CompressionReport, CompressionRow, compression_report
from weightcast.measure.probe import probe
from weightcast.measure.probe_table import Probe, ProbeRow
from weightcast.measure.verify import Verified, verify

__all__ = [
    "CompressionReport",
    "CompressionRow",
    "Ledger",
    "LedgerRow",
    "Probe",
    "ProbeRow",
    "Verified",
    "compression_report",
    "ledger",
    "probe",
    "verify",
]
