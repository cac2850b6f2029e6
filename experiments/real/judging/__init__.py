"""Can a real small model be taught to judge?"""
