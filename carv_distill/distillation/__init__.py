"""Distribution matching distillation: a frozen teacher becomes a one-step generator."""
