"""What every backend reads of a checkpoint: architecture, network, weights, tokenizer, chat template."""
