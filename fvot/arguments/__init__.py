"""Arguments of users, checked once: numbers, functions, times, steps, paths; and objects that do
not change after they are made.
"""
