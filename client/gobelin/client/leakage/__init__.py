"""Leakage: what an honest but curious aggregator can learn from the updates of this node."""

from gobelin.client.leakage.audit import Audit, LeakageReport, audit_leakage

__all__ = ["Audit", "LeakageReport", "audit_leakage"]
