"""What makes the shipped teachers."""
