"""Tool calling: from a user's wish and the tools at hand to a call with its arguments."""
