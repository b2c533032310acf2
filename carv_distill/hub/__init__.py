"""A run's product on the Hugging Face hub: what of it is sent, its card, the commit."""
