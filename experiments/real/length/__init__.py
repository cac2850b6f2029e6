"""How long do a real model's answers become, for a wanted length?"""
