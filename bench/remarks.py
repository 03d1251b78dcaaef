"""What a table cannot say: why a figure is where it is, and what was tried.

A remark gives reasons; figures stand in tables, or in a result file that the remark names.
"""

from __future__ import annotations

REMARKS: dict[str, str] = {}
