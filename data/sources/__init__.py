"""Where data sets and weights come from: the list, downloads, and a look at what is here.

registry reads the list (sources.yaml), check and paper look at what is here and need no package
beyond yaml, fetch and download bring what is not. May import core and the other rooms of data.
"""
