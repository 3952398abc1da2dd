"""OpenAI's wire formats: request schemas, chat and text completions."""
