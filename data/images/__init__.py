"""Encoded bytes to pixels, strictly: decoding, reasons for rejection, crops, a descriptor.

Also the pretrained network that comes with a package (pretrained).

May import core.
"""
