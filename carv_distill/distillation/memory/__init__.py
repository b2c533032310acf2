"""What a distillation takes of a GPU's memory, known before it begins."""
