"""Instruction following: from lists and an order to an answer in exactly the form ordered."""
