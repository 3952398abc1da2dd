"""Task types, the lm-eval harness over a session, scorecards and verdicts."""
