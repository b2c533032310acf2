"""Is what the advisor predicts what one gets?"""
