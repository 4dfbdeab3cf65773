"""Figures for people: records, tables, plots."""
