"""What both sides compute: parameter vectors, model, objective, data, evaluation, checkpoints."""
