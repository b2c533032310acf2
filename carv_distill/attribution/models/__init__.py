"""The model that is attributed, with the data that it learned from."""
