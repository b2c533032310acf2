"""What a ranking is shown as: sentences, tables, pictures, a film."""
