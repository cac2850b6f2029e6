"""Does IRPO teach a real model sums that more of the same SFT does not?"""
