"""Stage I: the entropy of every image (`score`), and the fraction of highest entropy.

config: settings. score: the pass over a corpus, by the measures of `entropy`. extend: the same for
a corpus that has grown. summary: what a score table holds. threshold: the pre-filter, D_p%.

May import core and data.
"""
