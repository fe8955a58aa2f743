"""Encoders f(x) behind one interface (Eq. 2), and the pass that embeds images.

config: settings. base: the interface, and the list of encoders. siglip, clip, dinov2, sscd: the
networks, with what they share in vision (finding weights), network (PyTorch) and pixels (Pillow).
passes: reading, decoding and encoding. embed: the embeddings of a pool or a reference set.

May import core, data and prune.stage1.
"""
