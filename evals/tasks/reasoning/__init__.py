"""Reasoning: from statements in any order to what follows from two or three of them."""
