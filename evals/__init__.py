"""Evaluation: task types, running lm-eval tasks on a session, scorecards and verdicts."""
