"""Extraction: from records in prose to the fields that are asked for."""
