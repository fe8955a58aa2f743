"""Where data sets and weights come from: the list, downloads, and a look at what is here.

May import core and the other rooms of data.
"""
