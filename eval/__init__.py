"""Frechet distances, LPIPS, the paper's numbers as data, tables and figures."""
