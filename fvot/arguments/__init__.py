"""What a user gave: numbers, functions, times, steps, paths, checked once; and objects that stay
what they were made.
"""
