"""What crosses a boundary: message dataclasses and file formats."""
