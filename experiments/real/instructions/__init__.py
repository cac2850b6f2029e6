"""Does a real model learn to keep constraints from its own answers?"""
