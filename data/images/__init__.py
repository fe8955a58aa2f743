"""Encoded bytes to pixels, strictly: decoding, reasons for rejection, crops, a descriptor.

May import core.
"""
