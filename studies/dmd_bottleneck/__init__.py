"""Why FID does not follow the variance of the student's gradient."""
