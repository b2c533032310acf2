"""From features to scores and rankings, and how well these are known."""
