"""Small apps with the habits of real ones: one module each, whose docstring says the habit.

They write what they have done to files in their folder, the server's, and answer in plain text.
"""
