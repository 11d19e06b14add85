"""Figures of studies and reports, drawn by matplotlib: PNG files and SVG for pages come from the same functions."""
