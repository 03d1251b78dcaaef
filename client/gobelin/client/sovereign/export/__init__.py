"""Exports: a sovereign model in forms that need nothing of Gobelin, checked against the model."""

from gobelin.client.sovereign.export.export import EXPORTERS, export_package

__all__ = ["EXPORTERS", "export_package"]
