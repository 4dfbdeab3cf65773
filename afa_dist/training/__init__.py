"""The steps, the loop around them, and what it leaves behind."""
