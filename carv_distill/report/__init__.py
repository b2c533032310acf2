"""report.html: what a person opens first, made from the files of a run's folder alone."""

NAME = "report.html"
