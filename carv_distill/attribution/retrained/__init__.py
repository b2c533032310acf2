"""What scores are worth, by models that were trained anew on parts of the training set."""
