"""What an image corpus is, and the file formats that the stages hand to each other.

Nothing here imports another room of the project; every other room may import this one.
"""
