"""Setting up: downloads by name, and a look at what of the data and the machine is here.

check and paper need no package beyond yaml. May import core and the other rooms of data.
"""
