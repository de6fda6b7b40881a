"""Reads stored results and compares them: statistics, tables, figures, the page, model cards."""
