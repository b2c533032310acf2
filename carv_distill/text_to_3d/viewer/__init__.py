"""A run's scene in the browser, while it learns; by viser, which only `window.py` imports."""
