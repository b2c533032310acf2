"""What a text-to-image teacher says about pictures: noise levels of a step, and a file for each objective."""
